-- open: ends a recovery. The lane sells again, at the new epoch, from seq 0.
--
-- KEYS[1]  meta   fg:{<ns>-<lane>}:meta  hash: epoch, state, seq, nonce, time, total, done, cursor, grant
-- ARGV[1]  epoch  of the recovery
-- ARGV[2]  nonce  8 bytes: what the first entry names as its predecessor, as the ledger's cursor does
-- ARGV[3]  grant  number of the last grant that the rebuilt lane holds
-- ARGV[4]  now    ms since 1970, by Postgres' clock; the lane's time never runs back
--
-- Replies: "ok", or "superseded" where the lane is not closed at this epoch: nothing was done.

local meta, epoch, nonce, grant, now = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local m = redis.call('HMGET', meta, 'epoch', 'state', 'time')
if m[1] ~= epoch or m[2] ~= 'closed' then
  return 'superseded'
end
redis.call('HSET', meta, 'state', 'open', 'seq', 0, 'nonce', nonce, 'time', math.max(now, tonumber(m[3] or '0')),
  'total', 0, 'done', 0, 'cursor', 0, 'grant', grant)
return 'ok'
