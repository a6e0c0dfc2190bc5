-- purpose: read one reservation under the same fence as every change
-- KEYS: sale reservations
-- ARGV: epoch_floor id
-- reply: ok epoch now_ms record        see lua/README.md
-- codes: ok unknown_reservation unknown_sale sale_archived sale_fenced
-- event: none
local sale_key, reservations_key = unpack(KEYS)
local epoch_floor, id = unpack(ARGV)

local refusal, epoch = enter({ 'hash', 'hash' }, epoch_floor)
if refusal then
  return refusal
end
local record = redis.call('HGET', reservations_key, id)
if not record then
  return { 'unknown_reservation' }
end
read_record(id, record) -- a damaged record is not an answer
return { 'ok', tonumber(epoch), now_ms(), record }
