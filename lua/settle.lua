-- settle: tells a lane how far its queue is durable, trims what is old enough, and tells every gateway.
--
-- KEYS[1]  meta     fg:{<ns>-<lane>}:meta   hash: epoch, cursor, done
-- KEYS[2]  queue    fg:{<ns>-<lane>}:queue  stream: one entry per call
-- ARGV[1]  epoch    of the lane
-- ARGV[2]  cursor   seq of the last durable entry
-- ARGV[3]  done     reservations of this epoch up to the cursor
-- ARGV[4]  keep     id of the oldest entry to keep, for a Postgres that falls back; empty: trim nothing
-- ARGV[5]  channel  fg:{<ns>-<lane>}:notice
-- ARGV[6]  notice   what became durable and what did not (flash::notice)
--
-- Replies: "ok", or "stale" where the lane is at another epoch: then nothing is marked or trimmed, only told.

local meta, queue = KEYS[1], KEYS[2]
local epoch, cursor, done, keep, channel, notice = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local m = redis.call('HMGET', meta, 'epoch', 'cursor')
local current = m[1] == epoch
if current and cursor > tonumber(m[2] or '0') then
  redis.call('HSET', meta, 'cursor', cursor, 'done', done)
  if keep ~= '' then
    redis.call('XTRIM', queue, 'MINID', '=', keep)
  end
end
redis.call('PUBLISH', channel, notice)
return current and 'ok' or 'stale'
