-- rows to import, before they have a task id. Ids alone store nothing here
CREATE TABLE import_row (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account integer NOT NULL,
    row text COLLATE "C" NOT NULL, -- ROW, or ROW~n for the n-th attempt
    attempts integer NOT NULL DEFAULT 1, -- of the first attempt: how many there are
    body bytea NOT NULL,
    ref bytea, -- NULL: the task has it
    fed_at double precision NOT NULL,
    due_at double precision NOT NULL,
    starts integer NOT NULL DEFAULT 0,
    lost integer NOT NULL DEFAULT 0, -- starts whose answer is not known
    refusals integer NOT NULL DEFAULT 0,
    first_sent_at double precision,
    may_have_landed boolean NOT NULL DEFAULT false, -- in an earlier attempt
    earlier text NOT NULL DEFAULT '', -- task ids of earlier attempts, separated by spaces
    task bigint, -- NULL: none yet
    UNIQUE (account, row)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX import_row_due ON import_row (account, due_at, key) WHERE task IS NULL;
CREATE INDEX import_row_task ON import_row (task) WHERE task IS NOT NULL;
CREATE TABLE import_sum ( -- by account: writers of different accounts do not wait for each other
    account integer PRIMARY KEY,
    accepted bigint NOT NULL DEFAULT 0,
    refused bigint NOT NULL DEFAULT 0,
    repeated bigint NOT NULL DEFAULT 0,
    starts bigint NOT NULL DEFAULT 0, -- of rows that are gone
    lost bigint NOT NULL DEFAULT 0 -- of rows that are gone
);
CREATE INDEX task_underway ON task (account) WHERE start IS NOT NULL AND kind IS NULL;
