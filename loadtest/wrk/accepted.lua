-- One hot SKU, every request a new order of a new user: each is granted, so this measures accepting alone.
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(args)
  n = 0
  run = args[1] or "r"
  head = { ["Content-Type"] = "application/json", ["Prefer"] = "respond-async" }
end

function request()
  n = n + 1
  local name = run .. "-" .. id .. "-" .. n
  return wrk.format("POST", "/api/inventory/reservations", head,
    '{"orderId":"o' .. name .. '","skuId":"hot","locationId":"wh1","quantity":1,"userId":"u' .. name .. '"}')
end

function done(summary)
  io.write(string.format("requests %d seconds %.3f not2xx %d\n", summary.requests, summary.duration / 1e6,
    summary.errors.status))
end
