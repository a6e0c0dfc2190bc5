-- purpose: read one reservation under the same fence as every change
-- KEYS: sale reservations
-- ARGV: epoch_floor id
-- reply: ok epoch now_ms record        record = "state\nlate\npayment\ncreated_ms\nexpires_ms\n" .. particulars
-- codes: ok unknown_reservation unknown_sale sale_fenced
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
return { 'ok', tonumber(epoch), now_ms(), record }
