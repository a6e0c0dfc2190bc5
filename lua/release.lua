#!lua flags=allow-oom
-- purpose: give a hold's units back, or those of a sale whose payment is refunded or was rejected
-- KEYS: sale stock reservations buyers due outbox
-- ARGV: epoch_floor id actor reason buyer        buyer = whose hold alone it may be, "" for a shop
-- reply: ok epoch code record changed        changed = 0 when it had been released, or is not
-- codes: ok released hold_expired not_held unknown_reservation unknown_sale sale_archived sale_fenced
-- event: release
local sale_key, stock_key, reservations_key, buyers_key, due_key, outbox_key = unpack(KEYS)
local epoch_floor, id, actor, reason, buyer = ARGV[1], ARGV[2], line('actor', ARGV[3]), line('reason', ARGV[4]), ARGV[5]

local refusal, epoch, r, per_buyer = enter_reservation(epoch_floor, id)
if refusal then
  return refusal
end
if buyer ~= '' and buyer ~= r.buyer then
  return { 'unknown_reservation' }
end

local function answer(code, changed)
  return { 'ok', tonumber(epoch), code, pack_record(r), changed }
end

local UNPAID = { refund = 'refund_due', rejected = 'rejected' }

if r.state == 'released' then
  return answer('released', 0)
elseif r.state == 'expired' then
  return answer('hold_expired', 0)
elseif r.state == 'sold' and (buyer ~= '' or not UNPAID[reason]) then
  return answer('not_held', 0)
end

local from = r.state
local units = move_units(stock_key, r.items, from, 'available')
if from == 'sold' then
  add_refund(r, r.payment, UNPAID[reason])
  r.payment = ''
end
r.state = 'released'
if per_buyer > 0 then
  give_back(buyers_key, r.buyer, units)
end
write_change(reservations_key, outbox_key, epoch, id, r, 'release', actor, from, reason)
write_stock(stock_key)
write_counts(sale_key, buyers_key, per_buyer > 0 and -units or 0)
redis.call('ZREM', due_key, id)
return answer('released', 1)
