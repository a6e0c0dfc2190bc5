-- purpose: read a sale's state, window and the counters of named SKUs, or of a page of all (next = "": the last)
-- KEYS: sale stock skus due outbox
-- ARGV: epoch_floor after limit (sku)*        SKUs named: `after` and `limit` are not looked at
-- reply: ok epoch now_ms state opens_at closes_at per_buyer hold_ms skus next pending since deadline checkpoint full (sku stock)*
-- codes: ok unknown_sku unknown_sale sale_archived sale_fenced
-- event: none
local sale_key, stock_key, skus_key, due_key, outbox_key = unpack(KEYS)
local epoch_floor, after, limit = ARGV[1], ARGV[2], ARGV[3]

local refusal, epoch = enter({ 'hash', 'hash', 'zset', 'zset', 'stream' }, epoch_floor)
if refusal then
  return refusal
end
local state, opens_at, closes_at, per_buyer, hold_ms, applied_n =
  sale_fields('opens_at', 'closes_at', 'per_buyer', 'hold_ms', 'applied_n')
local applied_epoch, checkpoint, full = unpack(redis.call('HMGET', sale_key, 'applied_epoch', 'checkpoint', 'full'))

local wanted, next_page = {}, ''
for i = 4, #ARGV do
  wanted[#wanted + 1] = ARGV[i]
end
if #wanted == 0 then
  local from = after == '' and '-' or '(' .. after
  wanted = redis.call('ZRANGEBYLEX', skus_key, from, '+', 'LIMIT', 0, limit + 1)
  if #wanted > tonumber(limit) then
    wanted[#wanted] = nil
    next_page = wanted[#wanted]
  end
end

-- How many events the ledger has not applied yet, and when the oldest of them was written (ms).
local function pending()
  local last = redis.call('XREVRANGE', outbox_key, '+', '-', 'COUNT', 1)[1]
  local first = redis.call('XRANGE', outbox_key, '(' .. applied_epoch .. '-' .. math.max(applied_n, 0), '+', 'COUNT', 1)[1]
  if applied_n < 0 then
    first = redis.call('XRANGE', outbox_key, '-', '+', 'COUNT', 1)[1]
  end
  if not last or not first then
    return 0, 0
  end
  local last_epoch, last_n = string.match(last[1], '^(%d+)%-(%d+)$')
  local count = last_epoch == applied_epoch and last_n - applied_n or last_n + 1
  return count, tonumber(string.match(first[2][2], '^%l+\n(%d+)\n') or 0)
end

local count, since = pending()
local reply = {
  'ok', tonumber(epoch), now_ms(), state, opens_at, closes_at, per_buyer, hold_ms,
  redis.call('ZCARD', skus_key), next_page, count, since,
  tonumber(redis.call('ZRANGE', due_key, 0, 0, 'WITHSCORES')[2] or 0), checkpoint or '', full == '1' and 1 or 0,
}
local unknown = { 'unknown_sku' }
for _, sku in ipairs(wanted) do
  local packed = redis.call('HGET', stock_key, sku)
  if packed then
    reply[#reply + 1], reply[#reply + 2] = sku, packed
  else
    unknown[#unknown + 1] = sku
  end
end
return #unknown > 1 and unknown or reply
