-- The usual script of a flash sale: one call a request; replay, the buyer's limit, stock, then the record.
--
-- KEYS[1] stock    string: units free
-- KEYS[2] bought   hash: buyer -> units
-- KEYS[3] orders   hash: order -> reservation id
-- KEYS[4] queue    stream: a reservation each
-- ARGV[1] id, ARGV[2] order, ARGV[3] buyer, ARGV[4] units, ARGV[5] limit (0: none), ARGV[6] item
--
-- Replies: reserved | replayed <id> | limit <held> | insufficient <free>
local id, order, buyer, units, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local first = redis.call('HGET', KEYS[3], order)
if first then
  return { 'replayed', first }
end
if limit > 0 then
  local held = tonumber(redis.call('HGET', KEYS[2], buyer) or 0)
  if held + units > limit then
    return { 'limit', held }
  end
end
local free = tonumber(redis.call('GET', KEYS[1]) or 0)
if free < units then
  return { 'insufficient', free }
end
redis.call('DECRBY', KEYS[1], units)
redis.call('HINCRBY', KEYS[2], buyer, units)
redis.call('HSET', KEYS[3], order, id)
redis.call('XADD', KEYS[4], '*', 'id', id, 'order', order, 'buyer', buyer, 'units', units, 'item', ARGV[6])
return { 'reserved' }
