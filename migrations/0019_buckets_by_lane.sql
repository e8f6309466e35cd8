-- Buckets that drift, which every gateway asks for each second, and those of a lane, which a comparison and a recovery ask
-- for: not all buckets of all sales that ever were. Safe while selling: the build locks out writers of buckets, of which
-- there are as many as sales and their lanes.
CREATE INDEX sale_bucket_drifting ON sale_bucket (lane) WHERE drift <> 0;
CREATE INDEX sale_bucket_by_lane ON sale_bucket (lane, sale_no);
