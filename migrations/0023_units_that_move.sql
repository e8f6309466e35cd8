-- Whether units of a sale move between its lanes is asked again and again while buyers wait for an answer. Where more
-- expires than comes home at once, the answer lay behind hundreds of thousands of other grants of the sale. Now a lane's
-- last one, and one without a number, are a probe each, and few rows are ever in the other index. Safe while selling, as
-- the one before: the table is small, and where somebody keeps it, this gives up; run it again.
SET LOCAL lock_timeout = '2s';
DROP INDEX lane_grant_by_sale;
CREATE INDEX lane_grant_by_sale ON lane_grant (sale_no, lane, grant_no);
CREATE INDEX lane_grant_moving ON lane_grant (sale_no) WHERE kind IN ('units', 'take');
