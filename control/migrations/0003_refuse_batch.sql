-- How the statement that writes a batch takes everything back when it finds that something has changed: by an error with
-- a code of its own. That is ordinary (the batch runs again) and counted in nexus_store_reruns_total{reason="stale"}, so
-- Postgres' log shall not hold it, with the whole statement, as if somebody had to look at it.
CREATE FUNCTION nexus.refuse_batch() RETURNS int LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION 'nexus: what a batch was decided on has changed; it runs again (nothing needs to be done)'
        USING ERRCODE = 'NX001';
END
$$;

-- Inside of the function, which raises nothing else, errors are not logged. Only a superuser may say so; where the
-- migrating role is none, the line stays in the log, and says what it is.
DO $$
BEGIN
    ALTER FUNCTION nexus.refuse_batch() SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        SET log_min_messages = fatal;
EXCEPTION WHEN insufficient_privilege THEN
    NULL;
END
$$;
