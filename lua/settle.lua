-- settle: tells a lane how far its queue is durable, trims what is old enough, and tells every gateway.
--
-- KEYS[1]  meta     fg:{<ns>-<lane>}:meta       hash: epoch, cursor, done, seq
-- KEYS[2]  queue    fg:{<ns>-<lane>}:queue      stream: one entry per call
-- KEYS[3..]         fg:{<ns>-<lane>}:sale:<no>  hash: taken, bound, of sales that bound what they owe the ledger
-- ARGV[1]  epoch    of the lane
-- ARGV[2]  cursor   seq of the last durable entry
-- ARGV[3]  done     reservations of this epoch up to the cursor
-- ARGV[4]  keep     id of the oldest entry to keep, for a Postgres that falls back; empty: trim nothing
-- ARGV[5]  channel  fg:{<ns>-<lane>}:notice
-- ARGV[6]  notice   what became durable and what did not (flash::notice)
-- ARGV[7..]         units that each of these sales has taken up to the cursor, cumulative
--
-- Replies: "ok", or "stale" where the lane is at another epoch: then nothing is marked or trimmed, only told.

local meta, queue = KEYS[1], KEYS[2]
local epoch, cursor, done, keep, channel, notice = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local m = redis.call('HMGET', meta, 'epoch', 'cursor', 'seq')
local current = m[1] == epoch
if current and cursor >= tonumber(m[2] or '0') then
  redis.call('HSET', meta, 'cursor', cursor, 'done', done)
  if keep ~= '' then
    redis.call('XTRIM', queue, 'MINID', '=', keep)
  end
  for k = 3, #KEYS do
    local s = redis.call('HMGET', KEYS[k], 'bound', 'taken')
    if s[1] then
      -- Nothing is on its way: all that was taken counts, whatever became of it.
      local settled = cursor >= tonumber(m[3] or '0') and s[2] or ARGV[k + 4]
      redis.call('HSET', KEYS[k], 'bound', string.match(s[1], '^%d+') .. ' ' .. settled)
    end
  end
end
redis.call('PUBLISH', channel, notice)
return current and 'ok' or 'stale'
