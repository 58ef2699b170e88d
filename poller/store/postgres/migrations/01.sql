CREATE TABLE state_version (version integer NOT NULL);
CREATE TABLE replica ( -- a process at work on this state; its row is its right to write
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at double precision NOT NULL,
    beat_at double precision NOT NULL,
    commits bigint NOT NULL DEFAULT 0 -- the number of its latest transaction; see `Writer._in_doubt`
);
CREATE TABLE account (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    active_at double precision,
    clean boolean NOT NULL DEFAULT false,
    paused_s double precision NOT NULL DEFAULT 0,
    day text NOT NULL DEFAULT '',
    pause text,
    pause_detail text,
    resume_at double precision
);
CREATE TABLE account_day (
    account integer NOT NULL,
    day text NOT NULL,
    requests bigint NOT NULL,
    PRIMARY KEY (account, day)
);
CREATE TABLE source (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    lines bigint NOT NULL DEFAULT 0,
    tasks bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    blank bigint NOT NULL DEFAULT 0,
    "offset" bigint NOT NULL DEFAULT 0,
    line bigint NOT NULL DEFAULT 0,
    fingerprint text NOT NULL DEFAULT '',
    ended boolean NOT NULL DEFAULT false
);
CREATE TABLE rejection (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source integer NOT NULL,
    line bigint NOT NULL,
    reason text NOT NULL,
    excerpt text NOT NULL
);
CREATE TABLE task (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account integer NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    kind text, -- NULL: waiting
    due_at double precision NOT NULL,
    looks integer NOT NULL DEFAULT 0,
    errors integer NOT NULL DEFAULT 0,
    missing_at double precision,
    status text,
    fed_at double precision NOT NULL,
    paused_base_s double precision NOT NULL,
    ref bytea,
    lease bigint NOT NULL DEFAULT 0, -- fencing token of the latest claim; 0: free
    lease_until timestamptz, -- NULL: free
    UNIQUE (account, task_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX task_due ON task (account, due_at, key) WHERE kind IS NULL;
CREATE SEQUENCE lease;
CREATE TABLE record (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task bigint NOT NULL UNIQUE, -- a second outcome of a task cannot be stored
    reason text,
    seen_at double precision NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX record_reason ON record (reason) WHERE reason IS NOT NULL;
CREATE INDEX record_seen ON record (seen_at);
CREATE TABLE sink (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    attached boolean NOT NULL DEFAULT false,
    filled_to bigint NOT NULL DEFAULT 0, -- while not attached: the last record that got an undelivered row
    position bytea,
    delivered bigint NOT NULL DEFAULT 0,
    missed bigint NOT NULL DEFAULT 0 -- pruned before this sink got them
);
CREATE TABLE undelivered (
    sink integer NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (sink, number)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE TABLE dead (
    sink integer NOT NULL,
    number bigint NOT NULL,
    reason text NOT NULL,
    at double precision NOT NULL,
    PRIMARY KEY (sink, number)
);
CREATE TABLE pruned (
    kind text PRIMARY KEY,
    tasks bigint NOT NULL,
    looks bigint NOT NULL
);
