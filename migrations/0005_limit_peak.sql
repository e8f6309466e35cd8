-- The highest limit per user that a sale ever had: what an audit may hold its buyers to, since a limit that was lowered
-- leaves those alone who had taken more before. Null: once there was none.

ALTER TABLE sale ADD COLUMN per_user_limit_peak int;
UPDATE sale SET per_user_limit_peak = per_user_limit;

CREATE FUNCTION sale_keeps_limit_peak() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.per_user_limit_peak := NEW.per_user_limit;
    ELSIF OLD.per_user_limit_peak IS NULL OR NEW.per_user_limit IS NULL THEN
        NEW.per_user_limit_peak := NULL;
    ELSE
        NEW.per_user_limit_peak := greatest(OLD.per_user_limit_peak, NEW.per_user_limit);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER sale_limit_peak BEFORE INSERT OR UPDATE OF per_user_limit, per_user_limit_peak ON sale
    FOR EACH ROW EXECUTE FUNCTION sale_keeps_limit_peak();
