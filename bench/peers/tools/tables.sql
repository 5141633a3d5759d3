-- The row of a signal as Nexus keeps it (the same columns, key and fill factor), and the outbox that Debezium documents.
CREATE TABLE signals (
    id         uuid PRIMARY KEY,
    title      text NOT NULL,
    priority   smallint NOT NULL,
    status     smallint NOT NULL,
    payload    json NOT NULL,
    target     uuid,
    created_by uuid NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    version    bigint NOT NULL
) WITH (fillfactor = 85);
CREATE TABLE outbox (
    id            uuid PRIMARY KEY,
    aggregatetype text NOT NULL,
    aggregateid   text NOT NULL,
    type          text NOT NULL,
    payload       text NOT NULL
);
