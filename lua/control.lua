-- purpose: create a sale, change its state or settings, pause a SKU, fence it, open a proven epoch, or archive it
-- KEYS: sale stock reservations buyers due outbox skus
-- ARGV: epoch_floor action actor (name value)*
-- reply: ok epoch state changed        changed = 0 when it already was so
-- codes: ok sale_exists sale_not_open sale_paused sale_closed unknown_sku limit_not_counted not_a_draft not_closed not_drained fence_changed unknown_sale sale_archived sale_fenced
-- event: control, or epoch for the action `prove`
local sale_key, stock_key, reservations_key, buyers_key, due_key, outbox_key, skus_key = unpack(KEYS)
local epoch_floor, action, actor = unpack(ARGV)
local KINDS = { 'hash', 'hash', 'hash', 'hash', 'zset', 'stream', 'zset' }

local SETTINGS = { 'opens_at', 'closes_at', 'per_buyer', 'hold_ms' }
local BOUNDS = { opens_at = { 0, MAX_TIME }, closes_at = { 0, MAX_TIME }, per_buyer = { 0, MAX }, hold_ms = { 1, MAX }, backlog_limit = { 1, MAX } }

local given = {}
for i = 4, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  if BOUNDS[name] then
    integer(name, value, unpack(BOUNDS[name]))
  end
  given[name] = value
end

local function done(epoch, changed)
  return { 'ok', tonumber(epoch), redis.call('HGET', sale_key, 'state') or '', changed }
end

-- Writes the event that carries the whole state after the change, then the change itself.
local function apply(epoch, change, sku)
  local after = {}
  for _, name in ipairs({ 'state', unpack(SETTINGS) }) do
    after[#after + 1] = change[name] or redis.call('HGET', sale_key, name)
  end
  after[#after + 1] = sku or ''
  append_event(outbox_key, epoch, 'control', now_ms(), action, actor, unpack(after))
  for name, value in pairs(change) do
    redis.call('HSET', sale_key, name, value)
  end
  return done(epoch, 1)
end

local function create()
  check_types(KINDS)
  if redis.call('EXISTS', unpack(KEYS)) > 0 then
    return { 'sale_exists' } -- or what is left of one: its units must not come back to life
  end
  for name in pairs(BOUNDS) do
    if not given[name] then
      corrupt('a new sale without ' .. name)
    end
  end
  return apply(1, {
    version = VERSION, epoch = 1, replid = replication_id(), fence = '', state = 'draft', granted = 0,
    applied_epoch = 1, applied_n = -1, full = 0, buyer_units = 0, backlog_limit = given.backlog_limit,
    opens_at = given.opens_at, closes_at = given.closes_at, per_buyer = given.per_buyer, hold_ms = given.hold_ms,
  })
end

-- Works on a sale in any condition: a fence must always be possible.
local function fence()
  local version, epoch, fence = unpack(redis.call('HMGET', sale_key, 'version', 'epoch', 'fence'))
  if not version then
    return { 'unknown_sale' }
  elseif not given.reason or given.reason == '' then
    corrupt('a fence without a reason') -- which would lift the one there is
  end
  redis.call('HSET', sale_key, 'fence', given.reason)
  return done(epoch or 0, fence == given.reason and 0 or 1)
end

-- Id of the newest event that ever was.
local function last_event()
  if redis.call('EXISTS', outbox_key) == 1 then
    local info = redis.call('XINFO', 'STREAM', outbox_key)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then
        return info[i + 1]
      end
    end
  end
  return '0-0'
end

-- The caller has drained the outbox up to `last_id` and found ledger and Redis equal.
local function prove()
  check_types(KINDS)
  local epoch, last_id = redis.call('HGET', sale_key, 'epoch'), last_event()
  if not epoch then
    return { 'unknown_sale' }
  end
  integer('epoch', epoch, 1, MAX)
  if last_id ~= given.last_id then
    return { 'not_drained', last_id }
  end
  local fence = redis.call('HGET', sale_key, 'fence')
  if fence ~= given.fence then
    return { 'fence_changed', fence or '' } -- somebody fenced it for another reason than the one that was looked into
  end
  local opened = math.max(tonumber(epoch), tonumber(epoch_floor)) + 1
  append_event(outbox_key, opened, 'epoch', now_ms(), last_id, actor)
  redis.call('HSET', sale_key, 'epoch', opened, 'replid', replication_id(), 'version', VERSION, 'fence', '')
  return done(opened, 1)
end

local NEXT = {
  open = { draft = 'open', open = 'open' },
  pause = { open = 'paused', paused = 'paused' },
  resume = { paused = 'open', open = 'open' },
  close = { open = 'closed', paused = 'closed', closed = 'closed' },
}
local REFUSAL = { draft = 'sale_not_open', paused = 'sale_paused', closed = 'sale_closed' }

local function move(epoch, state)
  local target = NEXT[action][state]
  if not target then
    return { REFUSAL[state] }
  elseif target == state then
    return done(epoch, 0)
  end
  return apply(epoch, { state = target })
end

local function update(epoch, state)
  if state == 'closed' then
    return { 'sale_closed' }
  end
  local change, changed = {}, false
  for _, name in ipairs(SETTINGS) do
    local now = redis.call('HGET', sale_key, name)
    if given[name] and given[name] ~= now then
      change[name], changed = given[name], true
    end
  end
  -- Units are counted per buyer only while a limit is set, so a limit cannot begin in the middle of a sale.
  if change.per_buyer and state ~= 'draft' and redis.call('HGET', sale_key, 'per_buyer') == '0' then
    return { 'limit_not_counted' }
  end
  return changed and apply(epoch, change) or done(epoch, 0)
end

local function mark_sku(epoch, paused)
  local packed = redis.call('HGET', stock_key, given.sku)
  if not packed then
    return { 'unknown_sku' }
  end
  local s = unpack_stock(given.sku, packed)
  if s.paused == paused then
    return done(epoch, 0)
  end
  s.paused = paused
  local reply = apply(epoch, {}, given.sku)
  redis.call('HSET', stock_key, given.sku, pack_stock(s))
  return reply
end

local function delete(state)
  if state ~= 'draft' then
    return { 'not_a_draft' }
  end
  redis.call('UNLINK', unpack(KEYS))
  return { 'ok', 0, 'deleted', 1 }
end

-- What is left of an archived sale, so that its name is not free and whoever comes late hears that it is over.
local function bury(epoch)
  redis.call('UNLINK', unpack(KEYS))
  redis.call('HSET', sale_key, 'version', VERSION, 'epoch', epoch, 'replid', '', 'fence', '', 'state', 'archived')
  return { 'ok', tonumber(epoch), 'archived', 1 }
end

-- The caller has drained the outbox up to `last_id`, and the ledger holds everything.
local function archive(epoch, state)
  if state ~= 'closed' or redis.call('ZCARD', due_key) > 0 then
    return { 'not_closed' }
  elseif last_event() ~= given.last_id then
    return { 'not_drained', last_event() }
  end
  return bury(epoch)
end

if action == 'create' then
  return create()
elseif action == 'bury' then -- a sale that the ledger has archived, in a Redis that lost its tombstone
  return redis.call('EXISTS', unpack(KEYS)) > 0 and { 'sale_exists' } or bury(1)
elseif action == 'fence' then
  return fence()
elseif action == 'prove' then
  return prove()
end
local refusal, epoch = enter(KINDS, epoch_floor)
if refusal then
  return refusal
end
local state = sale_fields(unpack(SETTINGS))
if NEXT[action] then
  return move(epoch, state)
elseif action == 'update' then
  return update(epoch, state)
elseif action == 'pause_sku' or action == 'resume_sku' then
  return mark_sku(epoch, action == 'pause_sku')
elseif action == 'archive' then
  return archive(epoch, state)
elseif action == 'delete' then
  return delete(state)
end
corrupt('unknown action ' .. action)
