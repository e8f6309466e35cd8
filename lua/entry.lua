-- entry: the checksum that an entry of a queue bears. Put before the scripts that append entries.
--
-- It is over all that the entry says: its id, kind, time, total, first, the length of its items, its nonce and that of
-- the entry before it, its items, and of its body what covers that: of a "reserve" the sums that its slips bear
-- (domain::entry::Slip), since they are short and Redis has little time, of a "grant" all of it. domain::entry::RawEntry
-- has the same.
local SUM_DIGITS = 16

local function entry_sum(id, kind, time, total, first, nonce, prev, items, body)
  local head = table.concat({ id, kind, time, total, first, #items, '' }, ' ')
  return sub(redis.sha1hex(head .. nonce .. prev .. items .. body), 1, SUM_DIGITS)
end

