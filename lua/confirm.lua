#!lua flags=allow-oom
-- purpose: turn a hold into a sale; a payment that cannot become one is recorded as refund_due, which sticks
-- KEYS: sale stock reservations buyers due outbox
-- ARGV: epoch_floor id actor payment
-- reply: ok epoch code record changed        changed = 0 when this payment was answered before
-- codes: ok confirmed payment_mismatch hold_expired not_held unknown_reservation unknown_sale sale_archived sale_fenced
-- event: confirm
local sale_key, stock_key, reservations_key, buyers_key, due_key, outbox_key = unpack(KEYS)
local epoch_floor, id, actor, payment = ARGV[1], ARGV[2], line('actor', ARGV[3]), line('payment', ARGV[4])

local refusal, epoch, r, per_buyer = enter_reservation(epoch_floor, id)
if refusal then
  return refusal
end
local WHY = { sold = 'payment_mismatch', expired = 'hold_expired', released = 'not_held' }

local function answer(code, changed)
  return { 'ok', tonumber(epoch), code, pack_record(r), changed }
end

if r.state == 'sold' and r.payment == payment then
  return answer('confirmed', 0)
end
for _, refund in ipairs(r.refunds) do
  if refund.payment == payment then
    return answer(WHY[r.state], 0)
  end
end

-- Expired, and paid late: the units are taken again if all of them remain.
local function may_retake()
  local skus, wanted, units = read_items(r.items)
  for _, sku in ipairs(skus) do
    local s = stock_of(stock_key, sku)
    if not s or s.paused or s.tracked and s.available < wanted[sku] or s.held + s.sold + wanted[sku] > MAX then
      return false
    end
  end
  return per_buyer == 0 or count_of(buyers_key, r.buyer) + units <= per_buyer
end

local function sell(from, outcome)
  local units = move_units(stock_key, r.items, from, 'sold')
  r.state, r.late, r.payment = 'sold', outcome == 'sold' and '0' or '1', payment
  write_change(reservations_key, outbox_key, epoch, id, r, 'confirm', actor, payment, outcome)
  write_stock(stock_key)
  redis.call('ZREM', due_key, id)
  if from == 'available' and per_buyer > 0 then
    give_back(buyers_key, r.buyer, -units)
    write_counts(sale_key, buyers_key, units)
  end
  return answer('confirmed', 1)
end

if r.state == 'held' then
  return sell('held', now_ms() < tonumber(r.expires) and 'sold' or 'late')
elseif r.state == 'expired' and #r.refunds == 0 and may_retake() then
  return sell('available', 'retaken')
end
add_refund(r, payment, 'refund_due')
write_change(reservations_key, outbox_key, epoch, id, r, 'confirm', actor, payment, 'refund_due')
return answer(WHY[r.state], 1)
