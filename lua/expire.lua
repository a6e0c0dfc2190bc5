#!lua flags=allow-oom
-- purpose: give back the units of holds past their deadline, the most overdue first
-- KEYS: sale stock reservations buyers due outbox
-- ARGV: epoch_floor limit        limit = holds in this call, 1..1000
-- reply: ok epoch now_ms expired oldest next        expired = count; oldest, next = deadlines in ms, 0 = none
-- codes: ok unknown_sale sale_archived sale_fenced
-- event: expire, one per hold
local sale_key, stock_key, reservations_key, buyers_key, due_key, outbox_key = unpack(KEYS)
local epoch_floor, limit = ARGV[1], ARGV[2]

local refusal, epoch = enter({ 'hash', 'hash', 'hash', 'hash', 'zset', 'stream' }, epoch_floor)
if refusal then
  return refusal
end
local _, per_buyer = sale_fields('per_buyer', 'buyer_units')
local now = now_ms()

-- The deadline of the hold that is due next, 0 when there is none.
local function first_deadline()
  return tonumber(redis.call('ZRANGE', due_key, 0, 0, 'WITHSCORES')[2] or 0)
end

local oldest = first_deadline()
local ids = redis.call('ZRANGEBYSCORE', due_key, '-inf', now, 'LIMIT', 0, integer('limit', limit, 1, 1000))
if #ids == 0 then
  return { 'ok', tonumber(epoch), now, 0, oldest, oldest }
end

-- Most carts of a sale are alike: their units are moved together.
local records, holders, carts, alike = {}, {}, {}, {}
for i, record in ipairs(redis.call('HMGET', reservations_key, unpack(ids))) do
  local buyer, items =
    string.match(record or '', '^held\n[01]\n\n%d+\n%d+\n([^\n]+)\n[^\n]+\n[^\n]*\n([^\n]+)\n$')
  if not buyer then
    corrupt('reservation ' .. ids[i] .. ' is due, and ' .. read_record(ids[i], record or '').state)
  end
  records[#records + 1], records[#records + 2] = ids[i], 'expired' .. string.sub(record, 5)
  holders[i], carts[i], alike[items] = buyer, items, (alike[items] or 0) + 1
end
local units = {}
for items, times in pairs(alike) do
  units[items] = move_units(stock_key, items, 'held', 'available', times)
end
local change = 0
if per_buyer > 0 then
  read_counts(buyers_key, holders)
  for i, buyer in ipairs(holders) do
    give_back(buyers_key, buyer, units[carts[i]])
    change = change - units[carts[i]]
  end
end

local next_id, now_text = epoch .. '-*', string.format('%d', now)
for _, id in ipairs(ids) do
  local event = 'expire\n' .. now_text .. '\n' .. id .. '\n'
  redis.call('XADD', outbox_key, next_id, 'event', event)
end
redis.call('HSET', reservations_key, unpack(records))
redis.call('ZREM', due_key, unpack(ids))
write_stock(stock_key)
write_counts(sale_key, buyers_key, change)
return { 'ok', tonumber(epoch), now, #ids, oldest, first_deadline() }
