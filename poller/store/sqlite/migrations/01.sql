CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    active_at REAL,
    clean INTEGER NOT NULL DEFAULT 0,
    paused_s REAL NOT NULL DEFAULT 0,
    day TEXT NOT NULL DEFAULT '',
    pause TEXT,
    pause_detail TEXT,
    resume_at REAL
);
CREATE TABLE account_day (
    account INTEGER NOT NULL,
    day TEXT NOT NULL,
    requests INTEGER NOT NULL,
    PRIMARY KEY (account, day)
) WITHOUT ROWID;
CREATE TABLE source (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    lines INTEGER NOT NULL DEFAULT 0,
    tasks INTEGER NOT NULL DEFAULT 0,
    duplicates INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    blank INTEGER NOT NULL DEFAULT 0,
    offset INTEGER NOT NULL DEFAULT 0,
    line INTEGER NOT NULL DEFAULT 0,
    fingerprint TEXT NOT NULL DEFAULT '',
    ended INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE rejection (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    line INTEGER NOT NULL,
    reason TEXT NOT NULL,
    excerpt TEXT NOT NULL
);
CREATE TABLE task (
    key INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    kind TEXT, -- NULL: waiting
    due_at REAL NOT NULL,
    looks INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0,
    missing_at REAL,
    status TEXT,
    fed_at REAL NOT NULL,
    paused_base_s REAL NOT NULL,
    ref BLOB,
    UNIQUE (account, task_id)
);
CREATE INDEX task_due ON task (account, due_at) WHERE kind IS NULL;
CREATE TABLE record (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task INTEGER NOT NULL UNIQUE, -- a second outcome of a task cannot be stored
    reason TEXT,
    seen_at REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX record_reason ON record (reason) WHERE reason IS NOT NULL;
CREATE TABLE sink (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    attached INTEGER NOT NULL DEFAULT 0,
    filled_to INTEGER NOT NULL DEFAULT 0, -- while not attached: the last record that got an undelivered row
    position BLOB,
    delivered INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE undelivered (
    sink INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (sink, number)
) WITHOUT ROWID;
CREATE TABLE dead (
    sink INTEGER NOT NULL,
    number INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (sink, number)
) WITHOUT ROWID;
