-- grant: delivers numbered grants to one lane, each once, in order, and queues what they did, in one step.
--
-- KEYS[1]     meta    fg:{<ns>-<lane>}:meta         hash: epoch, state, seq, nonce, time, total, grant, sale:<no>
-- KEYS[2]     queue   fg:{<ns>-<lane>}:queue        stream: one entry per call
-- KEYS[3i]    sale    fg:{<ns>-<lane>}:sale:<no>    hash: as in reserve.lua
-- KEYS[3i+1]  buyers  fg:{<ns>-<lane>}:buyers:<no>  hash: buyer -> record (record.lua)
-- KEYS[3i+2]  rates   fg:{<ns>-<lane>}:rates:<no>   hash: dropped with the sale
-- ARGV[1]     epoch   of the lane, as the caller knows it
-- ARGV[2]     seen    highest seq of this epoch that the caller or the ledger has seen
-- ARGV[3]     nonce   8 random bytes that name this call
-- ARGV[4]     now     ms since 1970, by Postgres' clock
-- ARGV[5]     first   number of the first grant
-- ARGV[i+5]   sale_no, message...   first the number of each sale in KEYS, then the grants (domain::grant::Grant)
--
-- Replies, always after the nonce: "stale", epoch, state, seq: nothing was done; "gap", last: nothing was done, the
-- lane has grants only up to last; "ok", seq, last: grants up to last are in force (a repeat changes nothing).

local meta, queue = KEYS[1], KEYS[2]
local epoch, seen, nonce = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now, first = tonumber(ARGV[4]), tonumber(ARGV[5])

local m = redis.call('HMGET', meta, 'epoch', 'state', 'seq', 'nonce', 'time', 'total', 'grant')
if m[1] ~= epoch or m[2] ~= 'open' or tonumber(m[3]) < seen then
  return { nonce, 'stale', m[1] or '', m[2] or '', m[3] or '' }
end
local sale_count = (#KEYS - 2) / 3
local messages_at = 6 + sale_count
local last = tonumber(m[7])
if first > last + 1 then
  return { nonce, 'gap', last }
end
local skip = last + 1 - first
if messages_at + skip > #ARGV then
  return { nonce, 'ok', tonumber(m[3]), last }
end
local seq, time = tonumber(m[3]) + 1, math.max(now, tonumber(m[5]))

local sales = {}
for i = 1, sale_count do
  local k = 3 * i
  local s = redis.call('HMGET', KEYS[k], 'free', 'hold', 'taken', 'bound')
  sales[i] = {
    no = ARGV[5 + i], key = KEYS[k], buyers = KEYS[k + 1], rates = KEYS[k + 2], records = {}, fields = nil,
    free = tonumber(s[1] or '0'), hold = tonumber(s[2] or '0'), taken = tonumber(s[3] or '0'), known = s[1] and true,
    settled = s[4] and string.match(s[4], '%d+$'),
  }
end

local STATES = { 'live', 'paused', 'frozen', 'ended', 'scheduled' }

-- The buyer's record; one that an earlier grant of this call emptied is as good as none.
local function record_of(sale, buyer)
  local record = sale.records[buyer] or redis.call('HGET', sale.buyers, buyer) or ''
  return record == '' and NO_RECORD or record
end

local function text_at(message, at)
  local length = byte(message, at)
  return sub(message, at + 1, at + length), at + 1 + length
end

local function settings(sale, message, number)
  local state, limit, rate, burst, hold, hold_max, ends = struct.unpack('>I1I4I4I4I4I4I6', message, 5)
  sale.hold = hold
  sale.fields = { 'no', sale.no, 'state', STATES[state], 'limit', limit, 'rate', rate, 'burst', burst, 'hold', hold,
    'hold_max', hold_max, 'ends', ends, 'set', number }
  -- Where there was no bound, it begins to count here: when this entry is durable, so is all that came before.
  local undurable_max = #message > 31 and struct.unpack('>I4', message, 32) or 0
  sale.bound = undurable_max > 0 and undurable_max .. ' ' .. (sale.settled or sale.taken)
  return 1
end

local DO = {}

DO[1] = function(sale, message) -- units
  sale.free = sale.free + struct.unpack('>I4', message, 5)
  return 1
end

DO[2] = function(sale, message) -- end
  local flags, units, place = struct.unpack('>I1I3c12', message, 5)
  local buyer = text_at(message, 22)
  local record = record_of(sale, buyer)
  local at = find_live(record, 28, place)
  if at then
    sale.records[buyer] = end_live(record, at, flags % 2 == 1)
  end
  sale.free = sale.free + units
  return at and 1 or 0
end

DO[3] = function(sale, message, number) -- open
  sale.known = true
  return settings(sale, message, number)
end

DO[4] = settings

DO[5] = function(sale) -- drop
  sale.known, sale.dropped = false, true
  return 1
end

DO[6] = function(sale, message) -- take
  local most = struct.unpack('>I4', message, 5)
  local taken = math.max(0, math.min(most, sale.free))
  sale.free = sale.free - taken
  return taken
end

DO[10] = function(sale, message) -- take whole
  local units = struct.unpack('>I4', message, 5)
  if sale.free < units then
    return 0
  end
  sale.free = sale.free - units
  return units
end

DO[7] = function(sale, message) -- retake
  local explicit, units, place, key, line, fingerprint, sum = struct.unpack('>I1I3c12c16c16c8c4', message, 5)
  local buyer = text_at(message, 65)
  local record = record_of(sale, buyer)
  if sale.free < units or byte(record, 1) >= RECORD_MAX or find_live(record, 16, sub(line, 1, 8)) then
    return 0
  end
  sale.free, sale.taken = sale.free - units, sale.taken + units
  sale.records[buyer] = add_live(record,
    sub(key, 1, 8) .. fingerprint .. sub(line, 1, 8) .. char(explicit) .. sub(message, 6, 8) .. place .. sum)
  return 1
end

DO[8] = function(sale, message) -- correct
  sale.free = sale.free + struct.unpack('>i4', message, 5)
  return 1
end

DO[9] = function(sale, message) -- record
  local buyer, at = text_at(message, 5)
  local length = struct.unpack('>I2', message, at)
  local old, new = sub(message, at + 2, at + 1 + length), sub(message, at + 2 + length)
  if record_of(sale, buyer) ~= (old == '' and NO_RECORD or old) then
    return 0
  end
  sale.records[buyer] = new
  return 1
end

local body = {}
for a = messages_at + skip, #ARGV do
  local message = ARGV[a]
  local outcome = DO[byte(message, 4)](sales[byte(message, 3)], message, last + #body + 1)
  body[#body + 1] = struct.pack('>I2', #message + 4) .. sub(message, 3) .. struct.pack('>I4', outcome)
end
last = last + #body

local items = {}
for i, sale in ipairs(sales) do
  items[i] = struct.pack('>I4i4I4', tonumber(sale.no), sale.free, sale.hold)
end
local id, number = epoch .. '-' .. seq, last - #body + 1
items, body = table.concat(items), table.concat(body)
redis.call('XADD', queue, id, 'kind', 'grant', 'nonce', nonce, 'prev', m[4], 'time', time, 'total', m[6],
  'first', number, 'items', items, 'body', body,
  'sum', entry_sum(id, 'grant', time, m[6], number, nonce, m[4], items, body))
redis.call('HSET', meta, 'seq', seq, 'nonce', nonce, 'time', time, 'grant', last)
for _, sale in ipairs(sales) do
  if sale.dropped then
    redis.call('UNLINK', sale.key, sale.buyers, sale.rates)
    redis.call('HDEL', meta, 'sale:' .. sale.no)
  elseif sale.known then
    if sale.fields then
      redis.call('HSET', sale.key, unpack(sale.fields))
      redis.call('HSET', meta, 'sale:' .. sale.no, 1)
      if sale.bound then
        redis.call('HSET', sale.key, 'bound', sale.bound)
      else
        redis.call('HDEL', sale.key, 'bound')
      end
    end
    redis.call('HSET', sale.key, 'free', sale.free, 'taken', sale.taken)
    for buyer, record in pairs(sale.records) do
      if record == '' or record == NO_RECORD then
        redis.call('HDEL', sale.buyers, buyer)
      else
        redis.call('HSET', sale.buyers, buyer, record)
      end
    end
  end
end
return { nonce, 'ok', seq, last }
