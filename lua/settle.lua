#!lua flags=allow-oom
-- purpose: record that a payment which was due back has been refunded
-- KEYS: sale reservations outbox
-- ARGV: epoch_floor id actor refund payment        payment = "": the only one that is due
-- reply: ok epoch code record changed        changed = 0 when this refund was recorded before, or cannot be
-- codes: ok settled nothing_due refund_mismatch payment_ambiguous unknown_reservation unknown_sale sale_archived sale_fenced
-- event: settle
local sale_key, reservations_key, outbox_key = unpack(KEYS)
local epoch_floor, id, actor, refund, payment = ARGV[1], ARGV[2], line('actor', ARGV[3]), line('refund', ARGV[4]), ARGV[5]

local refusal, epoch = enter({ 'hash', 'hash', 'stream' }, epoch_floor)
if refusal then
  return refusal
end
local record = redis.call('HGET', reservations_key, id)
if not record then
  return { 'unknown_reservation' }
end
local r = read_record(id, record)

local function answer(code, changed)
  return { 'ok', tonumber(epoch), code, pack_record(r), changed }
end

local due, refunded = {}, false
for _, entry in ipairs(r.refunds) do
  if payment == '' or payment == entry.payment then
    if entry.state == 'refunded' and entry.refund == refund then
      return answer('settled', 0)
    elseif entry.state == 'refund_due' then
      due[#due + 1] = entry
    end
    refunded = refunded or entry.state == 'refunded'
  end
end
if #due == 0 then
  return answer(refunded and 'refund_mismatch' or 'nothing_due', 0)
elseif #due > 1 then
  return answer('payment_ambiguous', 0)
end
due[1].state, due[1].refund = 'refunded', refund
write_change(reservations_key, outbox_key, epoch, id, r, 'settle', actor, due[1].payment, refund)
return answer('settled', 1)
