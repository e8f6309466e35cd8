-- What the benchmark's closed loops send, by the first argument:
--   accepted  a new order of a new buyer each, answered as soon as it is accepted
--   durable   the same, answered when it is durable, however long that takes
--   sold-out  a new buyer each, but for one in a hundred, who repeats an order that got its unit
--   spread    durable, over many items that follow each other
--   read      the item's page
--   ending    an ending of a reservation that there is, each once
-- Then the run's tag (8 characters), the item (of spread: "b"), and for sold-out the holders' tag and their number, for
-- spread the first item's number and how many they are, for ending "commit" or "release" and a file of ids. Order and
-- user ids have 26 characters: letter, tag, thread, 16 digits.
local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

local function body_of(tag, thread, n)
  local name = string.format("%s%d%016d", tag, thread, n)
  return '{"orderId":"o' .. name .. '","skuId":"' .. sku .. '","locationId":"wh1","quantity":1,"userId":"u' .. name .. '"}'
end

function init(args)
  kind, run, sku, holders, holding = args[1], args[2], args[3], args[4], tonumber(args[5] or 0)
  first, many, action = tonumber(args[4]), holding, args[4]
  n = 0
  head = { ["Content-Type"] = "application/json", ["Prefer"] = kind == "accepted" and "respond-async" or "wait=30" }
  if kind == "ending" then
    ids = {}
    for id in io.lines(args[5]) do
      ids[#ids + 1] = id
    end
  end
  if kind == "read" then
    page = wrk.format("GET", "/api/inventory?skuId=" .. sku .. "&locationId=wh1")
  end
end

function request()
  if page then
    return page
  end
  n = n + 1
  if ids then
    return wrk.format("POST", "/api/inventory/reservations/" .. ids[math.min(n, #ids)] .. "/" .. action, head, "{}")
  end
  if kind == "sold-out" and n % 100 == 0 then
    return wrk.format("POST", "/api/inventory/reservations", head, body_of(holders, 0, math.random(0, holding - 1)))
  end
  if kind == "spread" then
    sku = string.format("b%07d", first + math.random(0, many - 1))
  end
  return wrk.format("POST", "/api/inventory/reservations", head, body_of(run, id, n))
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("bench %d %.6f %d %d %.0f %.0f %.0f\n", summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(50), latency:percentile(95),
    latency:percentile(99)))
end
