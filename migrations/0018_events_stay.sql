-- Events can't be truncated either: neither all of them nor those of one day. A trigger for that is not inherited, so each
-- day has its own. A day that was detached can be dropped. Safe while selling: the locks are held for some milliseconds, and
-- where a vacuum keeps one of them, this gives up rather than have every writer wait behind it; run it again. A day that
-- is just being made comes before or after.
SELECT pg_advisory_xact_lock(hashtext('flashgate.ensure_day'));
SET LOCAL lock_timeout = '2s';
CREATE TRIGGER inventory_event_not_truncated BEFORE TRUNCATE ON inventory_event
    FOR EACH STATEMENT EXECUTE FUNCTION inventory_event_is_append_only();
DO $$
DECLARE
    day regclass;
BEGIN
    FOR day IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'inventory_event'::regclass ORDER BY 1 LOOP
        EXECUTE format('CREATE TRIGGER inventory_event_not_truncated BEFORE TRUNCATE ON %s
                            FOR EACH STATEMENT EXECUTE FUNCTION inventory_event_is_append_only()', day);
    END LOOP;
END $$;

-- As in 0003, and events of the new day can't be truncated.
CREATE OR REPLACE FUNCTION ensure_day(at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    day  date := (at AT TIME ZONE 'UTC')::date;
    name text;
    base text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('flashgate.ensure_day'));
    FOREACH base IN ARRAY ARRAY['inventory_reservation', 'inventory_event'] LOOP
        name := base || to_char(day, '_YYYY_MM_DD');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', name, base,
                           day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
            IF base = 'inventory_event' THEN
                EXECUTE format('CREATE TRIGGER inventory_event_not_truncated BEFORE TRUNCATE ON %I
                                    FOR EACH STATEMENT EXECUTE FUNCTION inventory_event_is_append_only()', name);
            END IF;
        END IF;
    END LOOP;
END $$;
