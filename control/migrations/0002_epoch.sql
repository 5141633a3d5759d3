-- The chain of events: which epoch this database is in, and Postgres' copy of how far the relay is.
-- Each table has at most one row: its primary key can only be true.

CREATE SCHEMA IF NOT EXISTS nexus;

CREATE TABLE nexus.epoch (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch     bigint  NOT NULL CHECK (epoch > 0),
    -- The last epoch that was opened because the database had been set back; 0 for none.
    history   bigint  NOT NULL CHECK (history >= 0),
    -- pg_control_system().system_identifier of the cluster that the epoch was opened in.
    system    text    NOT NULL,
    -- Where the slot stood when it was made.
    first_lsn pg_lsn  NOT NULL,
    -- The server run in which the relay last proved the chain; null before the first time.
    timeline  int,
    started   bigint,
    CHECK ((timeline IS NULL) = (started IS NULL))
);

CREATE TABLE nexus.position (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch         bigint NOT NULL,
    history       bigint NOT NULL,
    end_lsn       pg_lsn NOT NULL,
    -- The position record's own offset on the topic of watermarks.
    record_offset bigint NOT NULL CHECK (record_offset >= 0),
    record        json   NOT NULL
);

-- The relay reads logical messages only; pgoutput wants a publication all the same, so an empty one.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'nexus') THEN
        CREATE PUBLICATION nexus;
    END IF;
END
$$;
