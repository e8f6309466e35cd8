-- look: one consistent view of a lane: its meta, a sale, some of the sale's buyers, and the end of its queue.
--
-- KEYS[1]  meta    fg:{<ns>-<lane>}:meta         hash
-- KEYS[2]  queue   fg:{<ns>-<lane>}:queue        stream
-- KEYS[3]  sale    fg:{<ns>-<lane>}:sale:<no>    hash
-- KEYS[4]  buyers  fg:{<ns>-<lane>}:buyers:<no>  hash
-- ARGV[1]  after   id of the entry after which to read the queue
-- ARGV[2]  count   most entries to read
-- ARGV[3..]        buyers whose records to read
--
-- Replies: {meta field, value...}, {sale field, value...}, {record or empty...}, {entries as XRANGE gives them}.

local meta, queue, sale, buyers = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local after, count = ARGV[1], ARGV[2]

local records = {}
if #ARGV > 2 then
  records = redis.call('HMGET', buyers, unpack(ARGV, 3))
  for i = 1, #ARGV - 2 do
    records[i] = records[i] or ''
  end
end
return { redis.call('HGETALL', meta), redis.call('HGETALL', sale), records,
  redis.call('XRANGE', queue, '(' .. after, '+', 'COUNT', count) }
