-- Stand-in for the relay's own migration.
CREATE TABLE nexus.epoch (
    epoch     bigint NOT NULL,
    history   bigint NOT NULL,
    system    text NOT NULL,
    first_lsn pg_lsn NOT NULL,
    timeline  int,
    started   bigint
);
CREATE TABLE nexus.position (
    epoch         bigint NOT NULL,
    history       bigint NOT NULL,
    end_lsn       pg_lsn NOT NULL,
    record_offset bigint NOT NULL,
    record        json NOT NULL
);
