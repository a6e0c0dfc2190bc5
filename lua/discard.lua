#!lua flags=allow-oom
-- purpose: undo a reservation of which the ledger could not take an event, by an event that carries its whole record
-- KEYS: sale stock reservations buyers due outbox
-- ARGV: epoch_floor id actor reason
-- reply: ok epoch code record changed        changed is always 1: the ledger learns the record as it is
-- codes: ok discarded unknown_reservation unknown_sale sale_archived sale_fenced
-- event: discard
local sale_key, stock_key, reservations_key, buyers_key, due_key, outbox_key = unpack(KEYS)
local epoch_floor, id, actor, reason = ARGV[1], ARGV[2], line('actor', ARGV[3]), line('reason', ARGV[4])

local refusal, epoch, r, per_buyer = enter_reservation(epoch_floor, id)
if refusal then
  return refusal
end
local change = 0
if r.state == 'held' or r.state == 'sold' then
  local units = move_units(stock_key, r.items, r.state, 'available')
  if r.state == 'sold' then -- the sale does not count, so its payment is due back
    add_refund(r, r.payment, 'refund_due')
    r.payment = ''
  end
  r.state = 'released'
  if per_buyer > 0 then
    give_back(buyers_key, r.buyer, units)
    change = -units
  end
end
local packed = pack_record(r)
local fields = { string.format('%d', now_ms()), id, actor, reason, 9 + 3 * #r.refunds }
local event = 'discard\n' .. table.concat(fields, '\n') .. '\n' .. packed
redis.call('XADD', outbox_key, epoch .. '-*', 'event', event)
redis.call('HSET', reservations_key, id, packed)
redis.call('ZREM', due_key, id)
write_stock(stock_key)
write_counts(sale_key, buyers_key, change)
return { 'ok', tonumber(epoch), 'discarded', packed, 1 }
