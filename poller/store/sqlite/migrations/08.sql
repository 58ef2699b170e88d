-- rows to import, before they have a task id. Ids alone store nothing here
CREATE TABLE import_row (
    key INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    row TEXT NOT NULL, -- ROW, or ROW~n for the n-th attempt
    attempts INTEGER NOT NULL DEFAULT 1, -- of the first attempt: how many there are
    body BLOB NOT NULL,
    ref BLOB, -- NULL: the task has it
    fed_at REAL NOT NULL,
    due_at REAL NOT NULL,
    starts INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0, -- starts whose answer is not known
    refusals INTEGER NOT NULL DEFAULT 0,
    first_sent_at REAL,
    may_have_landed INTEGER NOT NULL DEFAULT 0, -- in an earlier attempt
    earlier TEXT NOT NULL DEFAULT '', -- task ids of earlier attempts, separated by spaces
    task INTEGER, -- NULL: none yet
    UNIQUE (account, row)
);
CREATE INDEX import_row_due ON import_row (account, due_at) WHERE task IS NULL;
CREATE INDEX import_row_task ON import_row (task) WHERE task IS NOT NULL;
CREATE TABLE import_sum (
    accepted INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    repeated INTEGER NOT NULL DEFAULT 0,
    starts INTEGER NOT NULL DEFAULT 0, -- of rows that are gone
    lost INTEGER NOT NULL DEFAULT 0 -- of rows that are gone
);
INSERT INTO import_sum DEFAULT VALUES;
ALTER TABLE task ADD COLUMN start BLOB; -- NULL: its id was fed
CREATE INDEX task_underway ON task (account) WHERE start IS NOT NULL AND kind IS NULL
