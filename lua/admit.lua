-- purpose: decide a batch of purchases of one sale, in order, each on its own
-- KEYS: sale stock reservations buyers due outbox
-- ARGV: epoch_floor (id particulars)*        particulars = "buyer\nkey\nreference\nitems\n"
-- reply: ok epoch now_ms expires_ms (decision)*, one per purchase, or a refusal of the whole batch
-- codes: ok admitted replayed idempotency_mismatch sold_out buyer_limit sale_not_open sale_paused sku_paused sale_closed backlog_full unknown_sku unknown_sale sale_fenced
-- event: admit, one per admitted purchase
local sale_key, stock_key, reservations_key, buyers_key, due_key, outbox_key = unpack(KEYS)
local epoch_floor = ARGV[1]

local refusal, epoch = enter({ 'hash', 'hash', 'hash', 'hash', 'zset', 'stream' }, epoch_floor)
if refusal then
  return refusal
end

local state, opens_at, closes_at, per_buyer, hold_ms, applied_epoch, applied_n, backlog_limit, backlog_full = unpack(
  redis.call('HMGET', sale_key, 'state', 'opens_at', 'closes_at', 'per_buyer', 'hold_ms',
    'applied_epoch', 'applied_n', 'backlog_limit', 'backlog_full')
)
opens_at, closes_at, per_buyer = tonumber(opens_at), tonumber(closes_at), tonumber(per_buyer)
local now = now_ms()
local expires = now + tonumber(hold_ms)

-- The sale's own refusal of anything new, or nil. Retries are answered before it is asked.
local function closed_door()
  if state == 'draft' then
    return { 'sale_not_open', 0 }
  elseif state == 'paused' then
    return { 'sale_paused' }
  elseif state ~= 'open' then
    return { 'sale_closed' }
  elseif now < opens_at then
    return { 'sale_not_open', opens_at }
  elseif closes_at > 0 and now >= closes_at then
    return { 'sale_closed' }
  elseif backlog_full == '1' then
    return { 'backlog_full' }
  end
end
local closed = closed_door()

-- What the batch has read or decided so far; written at the end, so that a script error leaves nothing half done.
local stock, records, counts = {}, {}, {}
local admitted = {}

local function stock_of(sku)
  if stock[sku] == nil then
    local packed = redis.call('HGET', stock_key, sku)
    stock[sku] = packed and unpack_stock(sku, packed)
  end
  return stock[sku]
end

local function record_of(id)
  return records[id] or redis.call('HGET', reservations_key, id)
end

local function count_of(buyer)
  counts[buyer] = counts[buyer] or tonumber(redis.call('HGET', buyers_key, buyer) or 0)
  return counts[buyer]
end

-- Items arrive summed and sorted: "sku quantity sku quantity …". Returns the refusal, or nil and the units in all.
local function refuse_items(items)
  local unknown, paused, short, units = { 'unknown_sku' }, { 'sku_paused' }, { 'sold_out' }, 0
  for sku, quantity in string.gmatch(items, '(%S+) (%d+)') do
    local s, wanted = stock_of(sku), tonumber(quantity)
    units = units + wanted
    if not s then
      unknown[#unknown + 1] = sku
    elseif s.paused then
      paused[#paused + 1] = sku
    elseif s.tracked and s.available < wanted or s.held + s.sold + wanted > MAX then
      for _, part in ipairs({ sku, wanted, s.available, s.held }) do
        short[#short + 1] = part
      end
    end
  end
  for _, refused in ipairs({ unknown, paused, short }) do
    if #refused > 1 then
      return refused
    end
  end
  return nil, units
end

local function take(items)
  for sku, quantity in string.gmatch(items, '(%S+) (%d+)') do
    local s = stock[sku]
    s.held = s.held + quantity
    if s.tracked then
      s.available = s.available - quantity
    end
  end
end

local function decide(id, particulars)
  local buyer, items = string.match(particulars, '^([^\n]+)\n[^\n]+\n[^\n]*\n([^\n]+)\n$')
  if not buyer then
    corrupt('particulars of ' .. id)
  end
  local record = record_of(id)
  if record then
    local same = string.match(record, '\n([^\n]*)\n$') == items
    return same and { 'replayed', record } or { 'idempotency_mismatch' }
  end
  if closed then
    return closed
  end
  local refused, units = refuse_items(items)
  if refused then
    return refused
  end
  if per_buyer > 0 then
    local count = count_of(buyer)
    if count + units > per_buyer then
      return { 'buyer_limit', per_buyer, count, units }
    end
    counts[buyer] = count + units
  end
  take(items)
  records[id] = 'held\n0\n\n' .. now .. '\n' .. expires .. '\n' .. particulars
  admitted[#admitted + 1] = { id = id, buyer = buyer, items = items, particulars = particulars }
  return { 'admitted' }
end

local reply = { 'ok', tonumber(epoch), now, expires }
for i = 2, #ARGV, 2 do
  reply[#reply + 1] = decide(ARGV[i], ARGV[i + 1])
end
if #admitted == 0 then
  return reply -- a refused purchase leaves no key, no field, no event
end

-- Redis refuses for want of memory only at a script's first write: the event goes first, the rest cannot fail.
local last_id
local new_stock, new_records, new_due, new_counts = {}, {}, {}, {}
for _, a in ipairs(admitted) do
  last_id = redis.call('XADD', outbox_key, epoch .. '-*', 'event', 'admit\n' .. now .. '\n' .. a.id .. '\n' .. expires .. '\n' .. a.particulars)
  new_records[#new_records + 1], new_records[#new_records + 2] = a.id, records[a.id]
  new_due[#new_due + 1], new_due[#new_due + 2] = expires, a.id
  for sku in string.gmatch(a.items, '(%S+) %d+') do
    new_stock[sku] = pack_stock(stock[sku])
  end
  new_counts[a.buyer] = counts[a.buyer]
end
redis.call('HSET', reservations_key, unpack(new_records))
redis.call('ZADD', due_key, unpack(new_due))
for sku, packed in pairs(new_stock) do
  redis.call('HSET', stock_key, sku, packed)
end
for buyer, count in pairs(new_counts) do
  redis.call('HSET', buyers_key, buyer, count)
end

-- Events that the ledger has not taken yet are memory: past the limit admission waits for the drain.
local pending = tonumber(string.match(last_id, '%-(%d+)$')) + 1
if applied_epoch == epoch then
  pending = pending - 1 - tonumber(applied_n)
end
if pending >= tonumber(backlog_limit) then
  redis.call('HSET', sale_key, 'backlog_full', '1')
end
return reply
