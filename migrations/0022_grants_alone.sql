-- A grant lives for milliseconds, and every reservation that ends without being sold has one. Neither lanes nor sales are
-- ever deleted, so looking both up for each grant, under a lock of each row, guarded nothing. Safe while selling: the
-- locks are held for some milliseconds, and where somebody keeps one of them, this gives up rather than have every writer
-- wait behind it; run it again.
SET LOCAL lock_timeout = '2s';
ALTER TABLE lane_grant DROP CONSTRAINT lane_grant_lane_fkey, DROP CONSTRAINT lane_grant_sale_no_fkey;
