-- purpose: give Redis stock of its SKUs, or take some back from what is available; all lines or none
-- KEYS: sale stock skus outbox
-- ARGV: epoch_floor number actor reason (sku delta tracked)*        number = the last applied one + 1
-- reply: ok epoch number · already_granted last · grant_gap last · not_available (sku lacking available held sold)*
-- codes: ok already_granted grant_gap not_available too_large tracking_fixed sale_closed unknown_sale sale_archived sale_fenced
-- event: grant
local sale_key, stock_key, skus_key, outbox_key = unpack(KEYS)
local epoch_floor, number, actor, reason = unpack(ARGV)

local refusal, epoch = enter({ 'hash', 'hash', 'zset', 'stream' }, epoch_floor)
if refusal then
  return refusal
end
local state, last = sale_fields('granted')
local wanted = integer('grant number', number, 1, MAX)
if wanted <= last then
  return { 'already_granted', last }
elseif wanted > last + 1 then
  return { 'grant_gap', last }
elseif state == 'closed' then
  return { 'sale_closed' }
end

local function new_stock(tracked)
  return { available = 0, held = 0, sold = 0, granted = 0, tracked = tracked == '1', paused = false }
end

local lines, short, changed = {}, { 'not_available' }, {}
for i = 5, #ARGV, 3 do
  local sku, delta, tracked = ARGV[i], integer('delta of ' .. ARGV[i], ARGV[i + 1], -MAX, MAX), ARGV[i + 2]
  if not string.find(sku, '^[!-~]+$') or tracked ~= '0' and tracked ~= '1' or tracked == '0' and delta ~= 0 then
    corrupt('grant of "' .. sku .. '"')
  end
  local packed = redis.call('HGET', stock_key, sku)
  local s = changed[sku] or packed and unpack_stock(sku, packed) or new_stock(tracked)
  if s.tracked ~= (tracked == '1') then
    return { 'tracking_fixed', sku }
  elseif s.granted + delta > MAX then
    return { 'too_large', sku }
  elseif s.available + delta < 0 then
    for _, part in ipairs({ sku, -delta - s.available, s.available, s.held, s.sold }) do
      short[#short + 1] = part
    end
  end
  s.available, s.granted = s.available + delta, s.granted + delta
  changed[sku] = s
  lines[#lines + 1] = sku .. ' ' .. ARGV[i + 1] .. ' ' .. tracked
end
if #short > 1 then
  return short
end

append_event(outbox_key, epoch, 'grant', now_ms(), number, actor, reason, table.concat(lines, ' '))
redis.call('HSET', sale_key, 'granted', number)
for sku, s in pairs(changed) do
  redis.call('HSET', stock_key, sku, pack_stock(s))
  redis.call('ZADD', skus_key, 0, sku)
end
return { 'ok', tonumber(epoch), wanted }
