-- purpose: decide a batch of purchases of one sale, in order, each on its own
-- KEYS: sale stock reservations buyers due outbox
-- ARGV: epoch_floor (id particulars)*        particulars = "buyer\nkey\nreference\nitems\n"
-- reply: ok epoch now_ms expires_ms (decision)*, one per purchase: a word, or a list of a word and what belongs to it; or a refusal of the whole batch
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
-- One list for each part of the purchases: a table for each purchase is more to make and to collect.
local ids, particulars, items, buyers = {}, {}, {}, {}
for i = 1, #ARGV / 2 do
  local id, text = ARGV[2 * i], ARGV[2 * i + 1] or ''
  ids[i], particulars[i] = id, text
  items[i] = string.match(text, '^%C+\n%C+\n%C*\n(%C+)\n$') or corrupt('particulars of ' .. id)
  if per_buyer > 0 then
    buyers[i] = string.match(text, '^%C+')
  end
end

-- The values of a hash's fields in their order; false when absent.
local function read_fields(key, fields)
  return #fields > 0 and redis.call('HMGET', key, unpack(fields)) or {}
end
local known_records, known_counts = read_fields(reservations_key, ids), read_fields(buyers_key, buyers)

-- ── decide ──

-- The sale's own refusal of anything new, or nil. Retries are answered before it is asked.
local function closed_door()
  if state == 'draft' then
    return { 'sale_not_open', 0 }
  elseif state == 'paused' then
    return 'sale_paused'
  elseif state ~= 'open' then
    return 'sale_closed'
  elseif now < opens_at then
    return { 'sale_not_open', opens_at }
  elseif closes_at > 0 and now >= closes_at then
    return 'sale_closed'
  elseif full == '1' then
    return 'backlog_full'
  end
end
local closed = closed_door()

-- Items → what they say, beside the counters of their SKUs. Most carts of a sale are alike: each is read once,
-- which is 1.2 µs less for every other purchase of it.
local carts = {}

local function read_cart(text)
  local skus, wanted, units = read_items(text)
  local cart = { units = units }
  for i, sku in ipairs(skus) do
    cart[i] = { sku = sku, units = wanted[sku], stock = stock_of(stock_key, sku) }
  end
  carts[text] = cart
  return cart
end

local function refuse(cart)
  local unknown, paused, short
  for _, line in ipairs(cart) do
    local s, units = line.stock, line.units
    if not s then
      unknown = unknown or { 'unknown_sku' }
      unknown[#unknown + 1] = line.sku
    elseif s.paused then
      paused = paused or { 'sku_paused' }
      paused[#paused + 1] = line.sku
    elseif s.tracked and s.available < units or s.held + s.sold + units > MAX then
      short = short or { 'sold_out' }
      local n = #short
      short[n + 1], short[n + 2], short[n + 3], short[n + 4] = line.sku, units, s.available, s.held
    end
  end
  return unknown or paused or short
end

local function take(cart)
  for _, line in ipairs(cart) do
    local s = line.stock
    s.held = s.held + line.units
    if s.tracked then
      s.available = s.available - line.units
    end
    s.taken = true
  end
end

-- From here on these are what the batch has decided so far; they are written at the end.
local admitted, records, new_records, new_due = {}, {}, {}, {}
local counted = 0 -- units that buyers' counts grow by
local count = 0 -- of admitted
local before_particulars = 'held\n0\n\n' .. now_text .. '\n' .. expires_text .. '\n'

-- What refuses a cart stays the same, down to its figures, until a purchase is admitted (sold out: 0.6 µs less).
local function refuse_again(cart)
  if cart.asked_after ~= count then
    cart.refusal, cart.asked_after = refuse(cart), count
  end
  return cart.refusal
end

local function decide(i)
  local id = ids[i]
  local record = records[id] or known_records[i]
  if record then
    return recorded_items(id, record) == items[i] and { 'replayed', record } or 'idempotency_mismatch'
  end
  if closed then
    return closed
  end
  local cart = carts[items[i]] or read_cart(items[i])
  local refused = refuse_again(cart)
  if refused then
    return refused
  end
  if per_buyer > 0 then
    local buyer = buyers[i]
    local has = counts[buyer] or integer('units of a buyer', known_counts[i] or 0, 0, MAX)
    if has + cart.units > per_buyer then
      return { 'buyer_limit', per_buyer, has, cart.units }
    end
    counts[buyer], counted = has + cart.units, counted + cart.units
  end
  take(cart)
  records[id] = before_particulars .. particulars[i]
  count = count + 1
  admitted[count] = i
  new_records[2 * count - 1], new_records[2 * count] = id, records[id]
  new_due[2 * count - 1], new_due[2 * count] = expires_text, id
  return 'admitted'
end

local reply = { 'ok', tonumber(epoch), now, expires }
for i = 1, #ids do
  reply[i + 4] = decide(i)
end
if count == 0 then
  return reply -- a refused purchase leaves no key, no field, no event
end

-- ── write: Redis refuses for want of memory only at a script's first write, so the event goes first ──

local next_id, last_id = epoch .. '-*', nil
local event = 'admit\n' .. now_text .. '\n' -- as far as it is the same for all
local after_id = '\n' .. expires_text .. '\n'
for _, i in ipairs(admitted) do
  last_id = redis.call('XADD', outbox_key, next_id, 'event', event .. ids[i] .. after_id .. particulars[i])
end
local new_stock, new_counts = {}, {}
for sku, s in pairs(stock) do
  if s and s.taken then
    new_stock[#new_stock + 1], new_stock[#new_stock + 2] = sku, pack_stock(s)
  end
end
for buyer, units in pairs(counts) do
  new_counts[#new_counts + 1], new_counts[#new_counts + 2] = buyer, units
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
