-- Put in front of every script by the loader: what each of them checks before it may answer.
local VERSION = '1' -- of the rules in this folder; a sale proven under other rules is fenced
local MAX = 2147483647 -- largest counter, so that Redis, Lua, Python and Postgres agree on every number

local function corrupt(what)
  error('CORRUPT ' .. what) -- a script error fences the sale; raised only before the first write
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
  local version, epoch, replid, fence =
    unpack(redis.call('HMGET', KEYS[1], 'version', 'epoch', 'replid', 'fence'))
  if not version then
    return { 'unknown_sale' }
  end
  if version ~= VERSION then
    return { 'sale_fenced', 'proven under rules version ' .. version .. ', these are ' .. VERSION }
  end
  if fence ~= '' then
    return { 'sale_fenced', fence }
  end
  if replid ~= replication_id() then
    return { 'sale_fenced', 'this Redis restarted or took over, and is not proven yet' }
  end
  if tonumber(epoch) < tonumber(epoch_floor) then
    return { 'sale_fenced', 'epoch ' .. epoch .. ' is older than ' .. epoch_floor .. ', which was already seen' }
  end
  return nil, epoch
end

-- A SKU's counters, kept as one string: "available held sold granted tracked paused".
local function unpack_stock(sku, packed)
  local available, held, sold, granted, tracked, paused =
    string.match(packed, '^(%d+) (%d+) (%d+) (%d+) ([01]) ([01])$')
  if not available then
    corrupt('stock of ' .. sku .. ' reads "' .. packed .. '"')
  end
  return {
    available = tonumber(available),
    held = tonumber(held),
    sold = tonumber(sold),
    granted = tonumber(granted),
    tracked = tracked == '1',
    paused = paused == '1',
  }
end

local function pack_stock(s)
  return string.format('%d %d %d %d %d %d', s.available, s.held, s.sold, s.granted, s.tracked and 1 or 0, s.paused and 1 or 0)
end

-- Fields end in a newline, which no field may contain, so a cut event or record never parses.
local function append_event(outbox_key, epoch, ...)
  return redis.call('XADD', outbox_key, epoch .. '-*', 'event', table.concat({ ... }, '\n') .. '\n')
end
