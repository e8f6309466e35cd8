-- reserve: takes units for up to 128 requests of one lane and queues the records, in one step.
--
-- KEYS[1]     meta    fg:{<ns>-<lane>}:meta         hash: epoch, state, seq, nonce, time, total, done, grant, cursor
-- KEYS[2]     queue   fg:{<ns>-<lane>}:queue        stream: one entry per call
-- KEYS[3i]    sale    fg:{<ns>-<lane>}:sale:<no>    hash: no, state, free, taken, limit, rate, burst, hold, hold_max, ends, set, bound
-- KEYS[3i+1]  buyers  fg:{<ns>-<lane>}:buyers:<no>  hash: buyer -> record (record.lua)
-- KEYS[3i+2]  rates   fg:{<ns>-<lane>}:rates:<no>   hash: buyer -> tokens (double), time (6 bytes, ms)
-- ARGV[1]     epoch      of the lane, as the caller knows it
-- ARGV[2]     seen       highest seq of this epoch that the caller or the ledger has seen
-- ARGV[3]     nonce      8 random bytes that name this call
-- ARGV[4]     now        ms since 1970, by Postgres' clock
-- ARGV[5]     queue_max  most reservations that may wait for the ledger
-- ARGV[2i+4]  buyer      "u:<user>" or "o:<order>"                          (i from 1)
-- ARGV[2i+5]  slip       the request (domain::entry::Slip), its sale as index into KEYS
--
-- Replies, always after the nonce: "stale", epoch, state, seq: nothing was done, the lane is not the caller's;
-- "ok", seq, time, grant, {free, hold, set}..., and an answer a request:
--   reserved | replayed <place> | key_reused | ended <place> | unknown | not_live <state> | user_required
--   | too_long <hold_max> | order <place> | rate <ms> | limit <limit> <held> | insufficient <free> | full | behind

local meta, queue = KEYS[1], KEYS[2]
local epoch, seen, nonce = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now, queue_max = tonumber(ARGV[4]), tonumber(ARGV[5])

local m = redis.call('HMGET', meta, 'epoch', 'state', 'seq', 'nonce', 'time', 'total', 'done', 'grant')
if m[1] ~= epoch or m[2] ~= 'open' or tonumber(m[3]) < seen then
  return { nonce, 'stale', m[1] or '', m[2] or '', m[3] or '' }
end
local seq, prev, time = tonumber(m[3]) + 1, m[4], math.max(now, tonumber(m[5]))
local total = tonumber(m[6])
local room = queue_max - (total - tonumber(m[7]))
local place = struct.pack('>I3I5', tonumber(epoch), seq)
local tail = sub(nonce, 6, 8)

local sales = {}
for k = 3, #KEYS, 3 do
  local s = redis.call('HMGET', KEYS[k], 'no', 'state', 'free', 'taken', 'limit', 'rate', 'burst', 'hold', 'hold_max', 'ends',
    'set', 'bound')
  local sale = { key = KEYS[k], buyers = KEYS[k + 1], rates = KEYS[k + 2], names = {}, records = {}, changed = {}, tokens = {} }
  if s[1] then
    sale.no, sale.state, sale.free, sale.taken = tonumber(s[1]), s[2], tonumber(s[3]), tonumber(s[4])
    sale.limit, sale.rate, sale.burst = tonumber(s[5]), tonumber(s[6]), tonumber(s[7])
    sale.hold, sale.hold_max, sale.ends, sale.set = tonumber(s[8]), tonumber(s[9]), tonumber(s[10]), tonumber(s[11])
    if sale.ends > 0 and time >= sale.ends then
      sale.state = 'ended'
    end
    if s[12] then
      local most, settled = string.match(s[12], '^(%d+) (%d+)$')
      sale.undurable_max, sale.settled = tonumber(most), tonumber(settled)
    end
  end
  sales[#sales + 1] = sale
end
for a = 6, #ARGV, 2 do
  local names = sales[byte(ARGV[a + 1], 3)].names
  names[#names + 1] = ARGV[a]
end
for _, sale in ipairs(sales) do
  if sale.no and #sale.names > 0 then
    local found = redis.call('HMGET', sale.buyers, unpack(sale.names))
    for n, name in ipairs(sale.names) do
      sale.records[name] = found[n] or NO_RECORD
    end
  end
end

-- Whole tokens are taken in order of attempts, whatever comes of the request afterwards. A bucket's time never runs
-- back, or two gateways whose clocks differ would fill it twice for the same time.
local function rate_wait(sale, buyer)
  local tokens, at = sale.burst, time
  local state = sale.tokens[buyer] or redis.call('HGET', sale.rates, buyer)
  if state then
    tokens, at = struct.unpack('>dI6', state)
    tokens = math.min(sale.burst, tokens + math.max(0, time - at) * sale.rate / 1000000)
  end
  local wait = 0
  if tokens >= 1 then
    tokens = tokens - 1
  else
    wait = math.ceil((1 - tokens) * 1000000 / sale.rate)
  end
  sale.tokens[buyer] = struct.pack('>dI6', tokens, math.max(time, at))
  return wait
end

-- A bucket that has been full for a minute, by whichever clock, says no more than none. Of each that is written two are
-- looked at, or names that come once would fill Redis.
local function forget_full(sale, written)
  local some = redis.call('HRANDFIELD', sale.rates, 2 * written, 'WITHVALUES')
  for n = 1, #some, 2 do
    local tokens, at = struct.unpack('>dI6', some[n + 1])
    if tokens + (time - at - 60000) * sale.rate / 1000000 >= sale.burst then
      redis.call('HDEL', sale.rates, some[n])
    end
  end
end

local accepted, slips, sums = 0, {}, {}

local function answer(buyer, slip)
  local sale = sales[byte(slip, 3)]
  if not sale.no then
    return 'unknown'
  end
  local flags, q1, q2, q3, t1, t2, t3, t4 = byte(slip, 4, 11)
  local key, line, fingerprint = sub(slip, 12, 19), sub(slip, 28, 35), sub(slip, 44, 51)
  local record = sale.records[buyer]
  -- Most buyers are new. To find nothing in their empty records takes a tenth of Redis' time for a reservation.
  local known = record ~= NO_RECORD
  local at = known and find_live(record, 0, key)
  if at then
    if sub(record, at + 8, at + 15) == fingerprint then
      return { 'replayed', sub(record, at + 28, at + 39) }
    end
    return 'key_reused'
  end
  at = known and find_tomb(record, key)
  if at then
    return { 'ended', sub(record, at + 8, at + 19) }
  end
  if sale.state ~= 'live' then
    return { 'not_live', sale.state }
  end
  if (sale.limit > 0 or sale.rate > 0) and flags % 4 < 2 then
    return 'user_required'
  end
  local ttl = ((t1 * 256 + t2) * 256 + t3) * 256 + t4
  if ttl > sale.hold_max then
    return { 'too_long', sale.hold_max }
  end
  at = known and find_live(record, 16, line)
  if at then
    return { 'order', sub(record, at + 28, at + 39) }
  end
  if sale.rate > 0 and flags < 4 then
    local wait = rate_wait(sale, buyer)
    if wait > 0 then
      return { 'rate', wait }
    end
  end
  local units = (q1 * 256 + q2) * 256 + q3
  local held = known and units_held(record) or 0
  if known and byte(record, 1) >= RECORD_MAX or (sale.limit > 0 and held + units > sale.limit) then
    return { 'limit', sale.limit > 0 and sale.limit or held, held }
  end
  if sale.free < units then
    return { 'insufficient', sale.free }
  end
  if accepted >= room then
    return 'full'
  end
  -- What would not fit at all goes alone, when nothing else of the sale is on its way to the ledger.
  local undurable = sale.undurable_max and sale.taken - sale.settled or 0
  if undurable > 0 and undurable + units > sale.undurable_max then
    return 'behind'
  end
  sale.free, sale.taken = sale.free - units, sale.taken + units
  local entry = key .. fingerprint .. line .. char(flags % 2, q1, q2, q3) .. place .. char(accepted) .. tail
    .. sub(slip, 68, 71)
  sale.records[buyer] = known and add_live(record, entry) or ONE_LIVE .. entry
  sale.changed[buyer] = true
  accepted = accepted + 1
  slips[accepted], sums[accepted] = slip, sub(slip, 72, 75)
  return 'reserved'
end

local answers = {}
for a = 6, #ARGV, 2 do
  answers[#answers + 1] = answer(ARGV[a], ARGV[a + 1])
end

if accepted > 0 then
  local items = {}
  for i, sale in ipairs(sales) do
    items[i] = struct.pack('>I4i4I4', sale.no or 0, sale.free or 0, sale.hold or 0)
  end
  total, items = total + accepted, table.concat(items)
  local id = epoch .. '-' .. seq
  redis.call('XADD', queue, id, 'kind', 'reserve', 'nonce', nonce, 'prev', prev, 'time', time, 'total', total, 'first', 0,
    'items', items, 'body', table.concat(slips),
    'sum', entry_sum(id, 'reserve', time, total, 0, nonce, prev, items, table.concat(sums)))
  redis.call('HSET', meta, 'seq', seq, 'nonce', nonce, 'time', time, 'total', total)
end
local figures = {}
for i, sale in ipairs(sales) do
  local pairs_of = {}
  for buyer in pairs(sale.changed) do
    pairs_of[#pairs_of + 1] = buyer
    pairs_of[#pairs_of + 1] = sale.records[buyer]
  end
  if #pairs_of > 0 then
    redis.call('HSET', sale.buyers, unpack(pairs_of))
    redis.call('HSET', sale.key, 'free', sale.free, 'taken', sale.taken)
  end
  local written = 0
  for buyer, tokens in pairs(sale.tokens) do
    redis.call('HSET', sale.rates, buyer, tokens)
    written = written + 1
  end
  if written > 0 then
    forget_full(sale, written)
  end
  figures[i] = { sale.free or 0, sale.hold or 0, sale.set or 0 }
end
return { nonce, 'ok', accepted > 0 and seq or seq - 1, time, m[8], figures, answers }
