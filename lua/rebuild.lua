-- rebuild: writes one sale of a closed lane anew, as the ledger has it; first the sale, then its buyers by the chunk.
--
-- KEYS[1]  meta    fg:{<ns>-<lane>}:meta         hash: epoch, state, sale:<no>
-- KEYS[2]  sale    fg:{<ns>-<lane>}:sale:<no>    hash: written whole by "sale", removed by "drop"
-- KEYS[3]  buyers  fg:{<ns>-<lane>}:buyers:<no>  hash: emptied by "sale" and "drop"; buyer -> record by "buyers"
-- KEYS[4]  rates   fg:{<ns>-<lane>}:rates:<no>   hash: emptied by "sale" and "drop"
-- ARGV[1]  epoch   of the recovery
-- ARGV[2]  part    "sale", "buyers" or "drop"
-- ARGV[3]  sale_no
-- ARGV[4..]        field, value...: of the sale hash, or buyer, record
--
-- Replies: "ok", or "superseded" where the lane is not closed at this epoch: nothing was done.

local meta, sale, buyers, rates = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch, part, sale_no = ARGV[1], ARGV[2], ARGV[3]

local m = redis.call('HMGET', meta, 'epoch', 'state')
if m[1] ~= epoch or m[2] ~= 'closed' then
  return 'superseded'
end
if part == 'buyers' then
  redis.call('HSET', buyers, unpack(ARGV, 4))
  return 'ok'
end
redis.call('UNLINK', sale, buyers, rates)
if part == 'sale' then
  redis.call('HSET', sale, unpack(ARGV, 4))
  redis.call('HSET', meta, 'sale:' .. sale_no, 1)
else
  redis.call('HDEL', meta, 'sale:' .. sale_no)
end
return 'ok'
