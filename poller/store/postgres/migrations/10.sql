-- a fleet: members share the state, accounts and sinks have one owner; see core/fleet.py
ALTER TABLE replica
    ADD COLUMN name text UNIQUE, -- NULL: the state's one owner
    ADD COLUMN beats bigint NOT NULL DEFAULT 0,
    ADD COLUMN seen_at timestamptz, -- for people only
    ADD COLUMN is_draining boolean NOT NULL DEFAULT false,
    ADD COLUMN revision bigint NOT NULL DEFAULT 0; -- of its rows in announced and sink_wanted
CREATE TABLE announced ( -- beside replica, whose row is written with each heartbeat and stays short
    replica bigint PRIMARY KEY REFERENCES replica ON DELETE CASCADE,
    serves text[] NOT NULL,
    settings jsonb NOT NULL
);
ALTER TABLE account
    ADD COLUMN owner bigint REFERENCES replica ON DELETE SET NULL,
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
    ADD COLUMN freed_at timestamptz, -- NULL: owned, or its owner vanished
    ADD COLUMN slots double precision[], -- how old the used slots of its window were when it was given back
    ADD COLUMN first_poll_s double precision NOT NULL DEFAULT 0;
ALTER TABLE sink
    ADD COLUMN owner bigint REFERENCES replica ON DELETE SET NULL,
    ADD COLUMN epoch bigint NOT NULL DEFAULT 0,
    ADD COLUMN home text; -- the name of the member on whose disk it is; NULL: any
CREATE TABLE progress ( -- the number of a member's latest transaction; see `Writer._in_doubt`
    replica bigint PRIMARY KEY REFERENCES replica ON DELETE CASCADE,
    commits bigint NOT NULL DEFAULT 0
);
CREATE TABLE sink_wanted (
    sink integer NOT NULL,
    replica bigint NOT NULL REFERENCES replica ON DELETE CASCADE,
    PRIMARY KEY (sink, replica)
);
CREATE UNLOGGED TABLE replica_status (
    replica bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    body bytea NOT NULL
);
CREATE TABLE kind_count ( -- sums that are kept while a fleet records; '' for tasks that wait
    replica text NOT NULL,
    kind text NOT NULL,
    tasks bigint NOT NULL,
    landed bigint NOT NULL,
    polls bigint NOT NULL,
    PRIMARY KEY (replica, kind)
);
