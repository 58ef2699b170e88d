-- A state as version 3 of the SQLite schema wrote it: two tasks pruned (COMPLETE, CANCELED), one complete and undelivered,
-- one waiting after two polls; an account, and what was learned of it.
PRAGMA application_id = 1349479532;
PRAGMA user_version = 3;
BEGIN TRANSACTION;
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
INSERT INTO "account" VALUES(1,'main',1001.5,0,4.0,'2026-01-05','outage','http_503',1100.0);
CREATE TABLE account_day (
    account INTEGER NOT NULL,
    day TEXT NOT NULL,
    requests INTEGER NOT NULL,
    PRIMARY KEY (account, day)
) WITHOUT ROWID;
INSERT INTO "account_day" VALUES(1,'2026-01-05',8);
CREATE TABLE dead (
    sink INTEGER NOT NULL,
    number INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (sink, number)
) WITHOUT ROWID;
CREATE TABLE knowledge (
    name TEXT PRIMARY KEY,
    body BLOB NOT NULL
) WITHOUT ROWID
;
INSERT INTO "knowledge" VALUES('main',X'6D756368');
CREATE TABLE pruned (
    kind TEXT PRIMARY KEY,
    tasks INTEGER NOT NULL,
    looks INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO "pruned" VALUES('canceled',1,2);
INSERT INTO "pruned" VALUES('complete',1,2);
CREATE TABLE record (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task INTEGER NOT NULL UNIQUE, -- a second outcome of a task cannot be stored
    reason TEXT,
    seen_at REAL NOT NULL,
    body BLOB NOT NULL
);
INSERT INTO "record" VALUES(3,3,NULL,1011.0,X'7B227461736B5F6964223A226B657074227D');
CREATE TABLE rejection (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    line INTEGER NOT NULL,
    reason TEXT NOT NULL,
    excerpt TEXT NOT NULL
);
CREATE TABLE sink (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    attached INTEGER NOT NULL DEFAULT 0,
    filled_to INTEGER NOT NULL DEFAULT 0, -- while not attached: the last record that got an undelivered row
    position BLOB,
    delivered INTEGER NOT NULL DEFAULT 0
, missed INTEGER NOT NULL DEFAULT 0);
INSERT INTO "sink" VALUES(1,'one',1,0,X'3333',2,0);
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
INSERT INTO "source" VALUES(1,'ids.txt',4,4,0,0,0,20,4,'f',0);
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
    ref BLOB, requested_at REAL, trail TEXT NOT NULL DEFAULT '',
    UNIQUE (account, task_id)
);
INSERT INTO "task" VALUES(3,1,'kept','complete',1000.0,3,0,NULL,'PROCESSING',1000.0,0.0,NULL,900.0,'[1000.000,0.500,0.125,"running","PROCESSING",2.000]
[1001.000,0.500,0.125,"running","PROCESSING",2.000]
[1010.000,0.500,0.125,"finished","COMPLETE",null]
');
INSERT INTO "task" VALUES(4,1,'waiting',NULL,1000.0,2,0,NULL,'PROCESSING',1000.0,0.0,NULL,900.0,'[1000.000,0.500,0.125,"running","PROCESSING",2.000]
[1001.000,0.500,0.125,"running","PROCESSING",2.000]
');
CREATE TABLE undelivered (
    sink INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (sink, number)
) WITHOUT ROWID;
INSERT INTO "undelivered" VALUES(1,3);
CREATE INDEX task_due ON task (account, due_at) WHERE kind IS NULL;
CREATE INDEX record_reason ON record (reason) WHERE reason IS NOT NULL;
CREATE INDEX record_seen ON record (seen_at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('record',3);
COMMIT;
