-- Put in front of every script by the loader: what each of them checks before it may answer.
local VERSION = '1' -- of the rules in this folder; a sale proven under other rules is fenced
local MAX = 2147483647 -- largest counter, so that Redis, Lua, Python and Postgres agree on every number
local MAX_TIME = 9999999999999 -- ms, the year 2286: Lua writes numbers of up to 14 digits as they are

local function corrupt(what)
  error('CORRUPT ' .. what) -- a script error fences the sale; raised only before the first write
end

-- A whole number exactly as Python writes it, within bounds; anything else is damage, not a default.
local function integer(what, text, least, most)
  local number = tonumber(text)
  if not number or number < least or number > most or string.format('%d', number) ~= tostring(text) then
    corrupt(what .. ' reads "' .. tostring(text) .. '"')
  end
  return number
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Changes whenever this Redis restarts or another one takes over (2 µs).
local function replication_id()
  return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

-- Nothing is rolled back in Lua, so every key is checked before anything is written.
local function check_types(kinds)
  for i, kind in ipairs(kinds) do
    local found = redis.call('TYPE', KEYS[i]).ok
    if found ~= kind and found ~= 'none' then
      corrupt(KEYS[i] .. ' is a ' .. found .. ', expected a ' .. kind)
    end
  end
end

-- Returns the refusal to answer with, or nil and the sale's epoch. KEYS[1] is always the sale.
local function enter(kinds, epoch_floor)
  check_types(kinds)
  local version, epoch, replid, fence, state =
    unpack(redis.call('HMGET', KEYS[1], 'version', 'epoch', 'replid', 'fence', 'state'))
  if not version then
    return { 'unknown_sale' }
  end
  if state == 'archived' then
    return { 'sale_archived' } -- a tombstone: nothing is left that could be wrong
  end
  if version ~= VERSION then
    return { 'sale_fenced', 'proven under rules version ' .. version .. ', these are ' .. VERSION }
  end
  if fence ~= '' then
    return { 'sale_fenced', fence or 'whether it is fenced was lost' }
  end
  if replid ~= replication_id() then
    return { 'sale_fenced', 'this Redis restarted or took over, and is not proven yet' }
  end
  if integer('epoch', epoch, 1, MAX) < tonumber(epoch_floor) then
    return { 'sale_fenced', 'epoch ' .. epoch .. ' is older than ' .. epoch_floor .. ', which was already seen' }
  end
  return nil, epoch
end

local STATES = { draft = true, open = true, paused = true, closed = true }

-- The sale's state, then those of its fields that are named, which all are numbers.
local function sale_fields(...)
  local values = redis.call('HMGET', KEYS[1], 'state', ...)
  if not STATES[values[1]] then
    corrupt('state reads "' .. tostring(values[1]) .. '"')
  end
  for i, name in ipairs({ ... }) do
    values[i + 1] = integer(name, values[i + 1], name == 'applied_n' and -1 or 0, MAX_TIME)
  end
  return unpack(values)
end

-- A SKU's counters, kept as one string: "available held sold granted tracked paused".
local function unpack_stock(sku, packed)
  local available, held, sold, granted, tracked, paused =
    string.match(packed, '^(%d+) (%d+) (%d+) (%d+) ([01]) ([01])$')
  if not available then
    corrupt('stock of ' .. sku .. ' reads "' .. packed .. '"')
  end
  local s = {
    available = tonumber(available),
    held = tonumber(held),
    sold = tonumber(sold),
    granted = tonumber(granted),
    tracked = tracked == '1',
    paused = paused == '1',
  }
  -- What is not tracked has no units of its own; of what is, every unit is somewhere.
  local placed = s.available + (s.tracked and s.held + s.sold or 0)
  if placed ~= s.granted or s.granted > MAX or not s.tracked and placed > 0 then
    corrupt('stock of ' .. sku .. ' does not add up: "' .. packed .. '"')
  end
  return s
end

local function pack_stock(s)
  return string.format('%d %d %d %d %d %d', s.available, s.held, s.sold, s.granted, s.tracked and 1 or 0, s.paused and 1 or 0)
end

-- Reads "sku quantity sku quantity …" into SKUs in order, units by SKU, and units in all. Each SKU stands there once:
-- twice, it would be checked twice against the same units.
local function read_items(items)
  local skus, wanted, units, length = {}, {}, 0, -1
  for sku, quantity in string.gmatch(items, '(%S+) ([1-9]%d*)') do
    length = length + #sku + #quantity + 2
    if wanted[sku] then
      corrupt('items "' .. items .. '"')
    end
    skus[#skus + 1], wanted[sku] = sku, tonumber(quantity)
    units = units + wanted[sku]
  end
  if length ~= #items then
    corrupt('items "' .. items .. '"') -- something between the matches
  end
  return skus, wanted, units
end

-- A reservation's record: five lines of its own, the four of its particulars, then three for each payment that became
-- no sale: "payment\nstate\nrefund\n", state being refund_due, refunded or rejected.
local function read_record(id, record)
  local state, late, payment, created, expires, particulars, buyer, items, refunds = string.match(
    record,
    '^([a-z]+)\n([01])\n([^\n]*)\n(%d+)\n(%d+)\n(([^\n]+)\n[^\n]+\n[^\n]*\n([^\n]+)\n)(.*)$'
  )
  if not state then
    corrupt('record of reservation ' .. id)
  end
  local r = { state = state, late = late, payment = payment, created = created, expires = expires }
  r.particulars, r.buyer, r.items, r.refunds = particulars, buyer, items, {}
  local length = 0
  for paid, status, refund in string.gmatch(refunds, '([^\n]+)\n([a-z_]+)\n([^\n]*)\n') do
    r.refunds[#r.refunds + 1] = { payment = paid, state = status, refund = refund }
    length = length + #paid + #status + #refund + 3
  end
  if length ~= #refunds then
    corrupt('refunds of reservation ' .. id)
  end
  return r
end

-- The items of a record. Mostly it ends with them, and not to take the rest apart is 1.1 µs less.
local function recorded_items(id, record)
  return string.match(record, '^[a-z]+\n[01]\n[^\n]*\n%d+\n%d+\n[^\n]+\n[^\n]+\n[^\n]*\n([^\n]+)\n$')
    or read_record(id, record).items
end

-- Payments stand in order of their names, so that whoever writes the record writes the same.
local function add_refund(r, payment, state)
  r.refunds[#r.refunds + 1] = { payment = payment, state = state, refund = '' }
  table.sort(r.refunds, function(a, b)
    return a.payment < b.payment
  end)
end

local function pack_record(r)
  local text = table.concat({ r.state, r.late, r.payment, r.created, r.expires, r.particulars }, '\n')
  for _, refund in ipairs(r.refunds) do
    text = text .. refund.payment .. '\n' .. refund.state .. '\n' .. refund.refund .. '\n'
  end
  return text
end

-- What people and programs name: one line, not empty.
local function line(what, text)
  return string.find(text or '', '^[^%c]+$') and text or corrupt(what)
end

-- Fields end in a newline, and none may contain one, so a cut event or record never parses.
local function append_event(outbox_key, epoch, ...)
  for _, field in ipairs({ ... }) do
    if string.find(field, '%c') then
      corrupt('a field of the event has a control character')
    end
  end
  return redis.call('XADD', outbox_key, epoch .. '-*', 'event', table.concat({ ... }, '\n') .. '\n')
end

-- ── what a change of reservations needs: read through these, decide in them, write them at the end ──

local stock, counts = {}, {}

-- How confirm, release and discard begin, which have the same keys. Returns the refusal, or nil, the sale's epoch, the
-- reservation's record and the limit per buyer.
local function enter_reservation(epoch_floor, id)
  local refusal, epoch = enter({ 'hash', 'hash', 'hash', 'hash', 'zset', 'stream' }, epoch_floor)
  if refusal then
    return refusal
  end
  local _, per_buyer = sale_fields('per_buyer', 'buyer_units')
  local record = redis.call('HGET', KEYS[3], id)
  if not record then
    return { 'unknown_reservation' }
  end
  return nil, epoch, read_record(id, record), per_buyer
end

-- A SKU's counters, or false when there is no such SKU.
local function stock_of(stock_key, sku)
  if stock[sku] == nil then
    local packed = redis.call('HGET', stock_key, sku)
    stock[sku] = packed and unpack_stock(sku, packed)
  end
  return stock[sku]
end

-- Units that count against a buyer's limit.
local function count_of(buyers_key, buyer)
  if counts[buyer] == nil then
    counts[buyer] = integer('units of a buyer', redis.call('HGET', buyers_key, buyer) or 0, 0, MAX)
  end
  return counts[buyer]
end

-- Moves the units of so many reservations of the same items (1 unless said) between `available`, `held` and `sold`.
-- What is not tracked is never available. Returns the units of one.
local function move_units(stock_key, items, from, to, times)
  local skus, wanted, units = read_items(items)
  for _, sku in ipairs(skus) do
    local s = stock_of(stock_key, sku) or corrupt('a reservation of ' .. sku .. ', which there is not')
    for place, sign in pairs({ [from] = -1, [to] = 1 }) do
      if s.tracked or place ~= 'available' then
        s[place] = s[place] + sign * wanted[sku] * (times or 1)
      end
    end
    if s[from] < 0 then
      corrupt('fewer units of ' .. sku .. ' are ' .. from .. ' than reservations say')
    end
  end
  return units
end

-- A change of one reservation: the event, then the record. Counters are written after it.
local function write_change(reservations_key, outbox_key, epoch, id, r, event, ...)
  append_event(outbox_key, epoch, event, now_ms(), id, ...)
  redis.call('HSET', reservations_key, id, pack_record(r))
end

-- The same for many buyers at once.
local function read_counts(buyers_key, buyers)
  for i, units in ipairs(redis.call('HMGET', buyers_key, unpack(buyers))) do
    counts[buyers[i]] = integer('units of a buyer', units or 0, 0, MAX)
  end
end

-- Units that come back lower the buyer's count; kept only while the sale has a limit.
local function give_back(buyers_key, buyer, units)
  local count = count_of(buyers_key, buyer) - units
  counts[buyer] = count >= 0 and count or corrupt('a buyer counts fewer units than reservations say')
end

local function write_stock(stock_key)
  for sku, s in pairs(stock) do
    redis.call('HSET', stock_key, sku, pack_stock(s))
  end
end

-- `change`: units by which all buyers' counts together changed.
local function write_counts(sale_key, buyers_key, change)
  local kept, gone = {}, {}
  for buyer, count in pairs(counts) do
    if count > 0 then
      kept[#kept + 1], kept[#kept + 2] = buyer, count
    else
      gone[#gone + 1] = buyer
    end
  end
  if #kept > 0 then
    redis.call('HSET', buyers_key, unpack(kept))
  end
  if #gone > 0 then
    redis.call('HDEL', buyers_key, unpack(gone))
  end
  if change ~= 0 then
    redis.call('HINCRBY', sale_key, 'buyer_units', change)
  end
end
