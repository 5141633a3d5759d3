-- The command side's authoritative state. Documents are kept as columns and rendered by the planes'
-- shared code; payloads as text (json), because jsonb reorders members and rewrites numbers.
CREATE SCHEMA IF NOT EXISTS nexus;

-- priority and status are ranks: the place of the word in its list.
-- Room in each page, and no index but the key, keep updates in their page (HOT).
CREATE TABLE nexus.signals (
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

-- Which version deleted a signal, for the 404 of a deleted one; pruned after 7 days.
CREATE TABLE nexus.deleted_signals (
    id      uuid PRIMARY KEY,
    version bigint NOT NULL,
    at      timestamptz NOT NULL
);
CREATE INDEX deleted_signals_at ON nexus.deleted_signals USING brin (at);

CREATE TABLE nexus.identities (
    id           uuid PRIMARY KEY,
    name         text NOT NULL UNIQUE,
    display_name text,
    email        text,
    kind         smallint NOT NULL,
    role         smallint NOT NULL,
    active       boolean NOT NULL,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    version      bigint NOT NULL
);

-- Secrets are 256 random bits, so a plain SHA-256 of the whole secret is enough.
CREATE TABLE nexus.api_keys (
    id         uuid PRIMARY KEY,
    identity   uuid NOT NULL REFERENCES nexus.identities (id),
    name       text NOT NULL,
    hint       text NOT NULL,
    sha256     bytea NOT NULL CHECK (octet_length(sha256) = 32),
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    version    bigint NOT NULL
);
CREATE INDEX api_keys_identity ON nexus.api_keys (identity);

-- First answers, written in the transaction of their request; kept for more than 24 hours.
CREATE TABLE nexus.idempotency_keys (
    identity    uuid NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    status      smallint NOT NULL,
    body        bytea NOT NULL,
    etag        bigint,
    location    text,
    token       text,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (identity, key)
);
CREATE INDEX idempotency_keys_created_at ON nexus.idempotency_keys USING brin (created_at);

-- One row per transaction of the batcher, by which the outcome of a lost COMMIT is known.
CREATE TABLE nexus.batches (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL
);
CREATE INDEX batches_at ON nexus.batches USING brin (at);

-- Events travel as logical messages. pgoutput wants a publication, and no table needs to be in it.
CREATE PUBLICATION nexus;
