#!lua flags=allow-oom
-- purpose: note how far the ledger has applied the outbox, let admission go on, trim what lies far enough behind
-- KEYS: sale outbox
-- ARGV: applied_epoch applied_n keep checkpoint        keep = applied events to stay; checkpoint = "" leaves the last one
-- reply: ok 0 moved        moved = 0 when a later position is known already. Answers under a fence too.
-- codes: ok unknown_sale
-- event: none
local sale_key, outbox_key = unpack(KEYS)
local epoch, n = integer('epoch', ARGV[1], 1, MAX), integer('n', ARGV[2], 0, MAX_TIME)
local keep, checkpoint = integer('keep', ARGV[3], 0, MAX_TIME), ARGV[4]

check_types({ 'hash', 'stream' })
local version, state, known_epoch, known_n =
  unpack(redis.call('HMGET', sale_key, 'version', 'state', 'applied_epoch', 'applied_n'))
if not version or state == 'archived' then
  return { 'unknown_sale' } -- deleted meanwhile: nothing of it may come back
end
known_epoch, known_n = integer('applied_epoch', known_epoch, 1, MAX), integer('applied_n', known_n, -1, MAX_TIME)
if epoch < known_epoch or epoch == known_epoch and n < known_n then
  return { 'ok', 0, 0 } -- the word of a slower worker
end
redis.call('HSET', sale_key, 'applied_epoch', ARGV[1], 'applied_n', ARGV[2], 'full', 0)
if checkpoint ~= '' then
  redis.call('HSET', sale_key, 'checkpoint', checkpoint)
end
-- What is not applied is never trimmed: the newest `pending` entries stay, and `keep` before them.
local last = redis.call('XREVRANGE', outbox_key, '+', '-', 'COUNT', 1)[1]
if last then
  local last_epoch, last_n = string.match(last[1], '^(%d+)%-(%d+)$')
  if tonumber(last_epoch) == epoch then
    redis.call('XTRIM', outbox_key, 'MAXLEN', '~', last_n - n + keep)
  end
end
return { 'ok', 0, 1 }
