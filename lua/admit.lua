-- purpose: decide a batch of purchases of one sale, in order, each on its own
-- KEYS: sale stock reservations buyers due outbox
-- ARGV: epoch_floor (id particulars)*        particulars = "buyer\nkey\nreference\nitems\n"
-- reply: ok epoch now_ms expires_ms (decision)*, one per purchase, or a refusal of the whole batch
-- codes: ok admitted replayed idempotency_mismatch sold_out buyer_limit sale_not_open sale_paused sku_paused sale_closed backlog_full unknown_sku unknown_sale sale_archived sale_fenced
-- event: admit, one per admitted purchase
local sale_key, stock_key, reservations_key, buyers_key, due_key, outbox_key = unpack(KEYS)
local epoch_floor = ARGV[1]
local MAX_BATCH = 1000 -- purchases: Lua unpacks at most about 8,000 values into one command

local refusal, epoch = enter({ 'hash', 'hash', 'hash', 'hash', 'zset', 'stream' }, epoch_floor)
if refusal then
  return refusal
end

-- ── read: the sale, the purchases, and what is known of their ids and buyers, in one command each ──

local state, opens_at, closes_at, per_buyer, hold_ms, applied_n, backlog_limit =
  sale_fields('opens_at', 'closes_at', 'per_buyer', 'hold_ms', 'applied_n', 'backlog_limit', 'buyer_units')
local applied_epoch, full = unpack(redis.call('HMGET', sale_key, 'applied_epoch', 'full'))
local now = now_ms()
local expires = now + hold_ms
local now_text, expires_text = string.format('%d', now), string.format('%d', expires)

if #ARGV > 1 + 2 * MAX_BATCH then
  corrupt('a batch of more than ' .. MAX_BATCH .. ' purchases')
end
local ids, purchases, buyers = {}, {}, {}
for i = 2, #ARGV, 2 do
  local id, particulars = ARGV[i], ARGV[i + 1] or ''
  local buyer, items = string.match(particulars, '^([^%c]+)\n[^%c]+\n[^%c]*\n([^%c]+)\n$')
  if not buyer then
    corrupt('particulars of ' .. id)
  end
  ids[#ids + 1], buyers[#buyers + 1] = id, buyer
  purchases[#purchases + 1] = { id = id, buyer = buyer, items = items, particulars = particulars }
end

-- field → value of a hash's fields; false when absent.
local function read_fields(key, fields)
  local values = {}
  for i, value in ipairs(#fields > 0 and redis.call('HMGET', key, unpack(fields)) or {}) do
    values[fields[i]] = value
  end
  return values
end

-- From here on these are what the batch has decided so far; they are written at the end.
local records = read_fields(reservations_key, ids)
local known = per_buyer > 0 and read_fields(buyers_key, buyers)

-- ── decide ──

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
  elseif full == '1' then
    return { 'backlog_full' }
  end
end
local closed = closed_door()

local function refuse_items(skus, wanted)
  local unknown, paused, short
  for _, sku in ipairs(skus) do
    local s, units = stock_of(stock_key, sku), wanted[sku]
    if not s then
      unknown = unknown or { 'unknown_sku' }
      unknown[#unknown + 1] = sku
    elseif s.paused then
      paused = paused or { 'sku_paused' }
      paused[#paused + 1] = sku
    elseif s.tracked and s.available < units or s.held + s.sold + units > MAX then
      short = short or { 'sold_out' }
      for _, part in ipairs({ sku, units, s.available, s.held }) do
        short[#short + 1] = part
      end
    end
  end
  return unknown or paused or short
end

local function take(skus, wanted)
  for _, sku in ipairs(skus) do
    local s = stock[sku]
    s.held = s.held + wanted[sku]
    if s.tracked then
      s.available = s.available - wanted[sku]
    end
  end
end

local counted = 0 -- units that buyers' counts grow by

local function decide(purchase)
  local record = records[purchase.id]
  if record then
    return read_record(purchase.id, record).items == purchase.items and { 'replayed', record } or { 'idempotency_mismatch' }
  end
  if closed then
    return closed
  end
  local skus, wanted, units = read_items(purchase.items)
  local refused = refuse_items(skus, wanted)
  if refused then
    return refused
  end
  if per_buyer > 0 then
    local count = counts[purchase.buyer] or integer('units of a buyer', known[purchase.buyer] or 0, 0, MAX)
    if count + units > per_buyer then
      return { 'buyer_limit', per_buyer, count, units }
    end
    counts[purchase.buyer], counted = count + units, counted + units
  end
  take(skus, wanted)
  purchase.skus = skus
  records[purchase.id] = 'held\n0\n\n' .. now_text .. '\n' .. expires_text .. '\n' .. purchase.particulars
  return { 'admitted' }
end

local reply, admitted = { 'ok', tonumber(epoch), now, expires }, {}
for _, purchase in ipairs(purchases) do
  local decision = decide(purchase)
  reply[#reply + 1] = decision
  if decision[1] == 'admitted' then
    admitted[#admitted + 1] = purchase
  end
end
if #admitted == 0 then
  return reply -- a refused purchase leaves no key, no field, no event
end

-- ── write: Redis refuses for want of memory only at a script's first write, so the event goes first ──

local next_id, last_id = epoch .. '-*', nil
local new_records, new_due, new_counts, new_stock, packed = {}, {}, {}, {}, {}
for _, a in ipairs(admitted) do
  local event = 'admit\n' .. now_text .. '\n' .. a.id .. '\n' .. expires_text .. '\n' .. a.particulars
  last_id = redis.call('XADD', outbox_key, next_id, 'event', event)
  new_records[#new_records + 1], new_records[#new_records + 2] = a.id, records[a.id]
  new_due[#new_due + 1], new_due[#new_due + 2] = expires_text, a.id
  if per_buyer > 0 then
    new_counts[#new_counts + 1], new_counts[#new_counts + 2] = a.buyer, counts[a.buyer]
  end
  for _, sku in ipairs(a.skus) do
    if not packed[sku] then
      packed[sku] = true
      new_stock[#new_stock + 1], new_stock[#new_stock + 2] = sku, pack_stock(stock[sku])
    end
  end
end
redis.call('HSET', reservations_key, unpack(new_records))
redis.call('ZADD', due_key, unpack(new_due))
redis.call('HSET', stock_key, unpack(new_stock))
if per_buyer > 0 then
  redis.call('HSET', buyers_key, unpack(new_counts))
  redis.call('HINCRBY', sale_key, 'buyer_units', counted)
end

-- Events that the ledger has not taken yet are memory: past the limit admission waits for the drain.
local pending = tonumber(string.match(last_id, '%-(%d+)$')) + 1
if applied_epoch == epoch then
  pending = pending - 1 - applied_n
end
if pending >= backlog_limit then
  redis.call('HSET', sale_key, 'full', '1')
end
return reply
