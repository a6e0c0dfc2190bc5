-- purpose: read a sale's state, window and the counters of named SKUs, or of a page of all (next = "": the last)
-- KEYS: sale stock skus due outbox
-- ARGV: epoch_floor after limit (sku)*        SKUs named: `after` and `limit` are not looked at
-- reply: ok epoch now_ms state opens_at closes_at per_buyer hold_ms skus next pending deadline checkpoint (sku stock)*
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
local applied_epoch, checkpoint = unpack(redis.call('HMGET', sale_key, 'applied_epoch', 'checkpoint'))

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

-- Events that the ledger has not applied yet.
local function pending()
  local last = redis.call('XREVRANGE', outbox_key, '+', '-', 'COUNT', 1)[1]
  if not last then
    return 0
  end
  local last_epoch, last_n = string.match(last[1], '^(%d+)%-(%d+)$')
  return last_epoch == applied_epoch and last_n - applied_n or last_n + 1
end

local reply = {
  'ok', tonumber(epoch), now_ms(), state, opens_at, closes_at, per_buyer, hold_ms,
  redis.call('ZCARD', skus_key), next_page, pending(), tonumber(redis.call('ZRANGE', due_key, 0, 0, 'WITHSCORES')[2] or 0), checkpoint or '',
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
