-- look: one consistent view of a lane: its meta, counters of sales, some buyers of one sale, and the end of its queue.
--
-- KEYS[1]  meta    fg:{<ns>-<lane>}:meta         hash: epoch, state, seq, nonce, grant, total, done
-- KEYS[2]  queue   fg:{<ns>-<lane>}:queue        stream
-- KEYS[3]  buyers  fg:{<ns>-<lane>}:buyers:<no>  hash
-- KEYS[4..] sale   fg:{<ns>-<lane>}:sale:<no>    hash: free
-- ARGV[1]  after   id of the entry after which to read the queue
-- ARGV[2]  count   most entries to read
-- ARGV[3..]        buyers whose records to read
--
-- Replies: {meta value or nil...}, {counter or nil...}, {record or empty...}, {entries as XRANGE gives them}.

local meta, queue, buyers = KEYS[1], KEYS[2], KEYS[3]
local after, count = ARGV[1], ARGV[2]

local records = {}
if #ARGV > 2 then
  records = redis.call('HMGET', buyers, unpack(ARGV, 3))
  for i = 1, #ARGV - 2 do
    records[i] = records[i] or ''
  end
end
local free = {}
for k = 4, #KEYS do
  free[k - 3] = redis.call('HGET', KEYS[k], 'free')
end
return { redis.call('HMGET', meta, 'epoch', 'state', 'seq', 'nonce', 'grant', 'total', 'done'), free, records,
  redis.call('XRANGE', queue, '(' .. after, '+', 'COUNT', count) }
