-- wrk's script: purchases of one unit, each with a key and a buyer of its own; the last line printed is JSON.
-- args: path run skus keyed bearer        run: makes keys unique across runs; keyed: 1 sends Idempotency-Key
-- A number has a fixed width, so that every request has the same length and nothing is computed twice.
local head, sku_count, run, keyed, number = nil, nil, nil, nil, 0

local function body(buyer, sku)
  return string.format('{"buyer":"b%09d","items":[{"sku":"SKU-%04d","quantity":1}]}', buyer, sku)
end

function init(args)
  local path, bearer = args[1], args[5]
  run, sku_count, keyed = args[2], tonumber(args[3]), args[4] == '1'
  head = 'POST ' .. path .. ' HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n'
  if bearer then
    head = head .. 'Authorization: Bearer ' .. bearer .. '\r\n'
  end
  head = head .. 'Content-Length: ' .. #body(0, 0) .. '\r\n'
end

function request()
  number = number + 1
  local key = keyed and string.format('Idempotency-Key: %s-%09d\r\n\r\n', run, number) or '\r\n'
  return head .. key .. body(number, number % sku_count)
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"refused":%d,"errors":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"p999_ms":%.3f}\n',
    summary.requests, e.status, e.connect + e.read + e.write + e.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3
  ))
end
