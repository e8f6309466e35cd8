-- close: begins a recovery. From here everything that speaks for an older epoch is refused.
--
-- KEYS[1]  meta   fg:{<ns>-<lane>}:meta  hash: epoch, state, seq, nonce, grant
-- ARGV[1]  epoch  the new one, greater than every one before
--
-- Replies: "closed", epoch, state, seq, nonce, grant as they were (empty where the lane did not exist);
-- "superseded", epoch: the lane is at this epoch or a later one already.

local meta, epoch = KEYS[1], ARGV[1]

local m = redis.call('HMGET', meta, 'epoch', 'state', 'seq', 'nonce', 'grant')
if m[1] and tonumber(m[1]) >= tonumber(epoch) then
  return { 'superseded', m[1] }
end
redis.call('HSET', meta, 'epoch', epoch, 'state', 'closed')
return { 'closed', m[1] or '', m[2] or '', m[3] or '', m[4] or '', m[5] or '' }
