-- purpose: append an event that carries Redis's own counters of some SKUs, and of all buyers, at this very position
-- KEYS: sale stock outbox
-- ARGV: epoch_floor (sku)*
-- reply: ok epoch n        the event's position
-- codes: ok unknown_sale sale_archived sale_fenced
-- event: checkpoint
local sale_key, stock_key, outbox_key = unpack(KEYS)
local epoch_floor = ARGV[1]

local refusal, epoch = enter({ 'hash', 'hash', 'stream' }, epoch_floor)
if refusal then
  return refusal
end
local _, per_buyer, buyer_units = sale_fields('per_buyer', 'buyer_units')
local lines = {}
for i = 2, #ARGV do
  local sku = ARGV[i]
  local packed = redis.call('HGET', stock_key, sku) or '0 0 0 0 1 0' -- a SKU that Redis lost counts as nothing
  local s = unpack_stock(sku, packed)
  lines[#lines + 1] = string.format('%s %d %d %d %d', sku, s.available, s.held, s.sold, s.granted)
end
local units = per_buyer > 0 and buyer_units or '' -- counted only while there is a limit
local id = append_event(outbox_key, epoch, 'checkpoint', now_ms(), units, table.concat(lines, ' '))
return { 'ok', tonumber(epoch), tonumber(string.match(id, '%-(%d+)$')) }
