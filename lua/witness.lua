-- witness: says that every lane of this node was recovered since the node's script cache was last emptied.
--
-- Redis empties the cache when it restarts and when a replica is promoted, so a missing witness means: recover first.
-- Its text never changes, and it is loaded last.
--
-- Replies: "witness".

return 'witness'
