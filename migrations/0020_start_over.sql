-- Undoes the statement that calls it, for whoever sent it to begin anew: as two transactions that met.
CREATE FUNCTION start_over(why text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', why USING ERRCODE = 'serialization_failure';
END $$;
