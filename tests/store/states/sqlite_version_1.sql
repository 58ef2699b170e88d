-- A state as version 1 of the SQLite schema wrote it: four tasks, one finished and delivered to sink one, one refused by it,
-- one canceled and undelivered, one waiting; sink two was attached once and got nothing.
PRAGMA application_id = 1349479532;
PRAGMA user_version = 1;
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
INSERT INTO "account_day" VALUES(1,'2026-01-05',4);
CREATE TABLE dead (
    sink INTEGER NOT NULL,
    number INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (sink, number)
) WITHOUT ROWID;
INSERT INTO "dead" VALUES(1,2,'too big',1000.0);
CREATE TABLE record (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    task INTEGER NOT NULL UNIQUE, -- a second outcome of a task cannot be stored
    reason TEXT,
    seen_at REAL NOT NULL,
    body BLOB NOT NULL
);
INSERT INTO "record" VALUES(1,1,NULL,1001.0,X'7B227461736B5F6964223A22646F6E65227D');
INSERT INTO "record" VALUES(2,2,NULL,1001.0,X'7B227461736B5F6964223A2272656675736564227D');
INSERT INTO "record" VALUES(3,3,'why',1001.0,X'7B227461736B5F6964223A2263616E63656C6564227D');
CREATE TABLE rejection (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    line INTEGER NOT NULL,
    reason TEXT NOT NULL,
    excerpt TEXT NOT NULL
);
INSERT INTO "rejection" VALUES(1,1,6,'no id','?');
CREATE TABLE sink (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    attached INTEGER NOT NULL DEFAULT 0,
    filled_to INTEGER NOT NULL DEFAULT 0, -- while not attached: the last record that got an undelivered row
    position BLOB,
    delivered INTEGER NOT NULL DEFAULT 0
);
INSERT INTO "sink" VALUES(1,'one',1,0,X'3333',1);
INSERT INTO "sink" VALUES(2,'two',0,3,NULL,0);
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
INSERT INTO "source" VALUES(1,'ids.txt',7,4,1,1,1,90,7,'f',1);
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
INSERT INTO "task" VALUES(1,1,'done','complete',1000.0,1,0,NULL,NULL,1000.0,0.0,X'7B22726F77223A22646F6E65227D');
INSERT INTO "task" VALUES(2,1,'refused','complete',1000.0,1,0,NULL,NULL,1000.0,0.0,X'7B22726F77223A2272656675736564227D');
INSERT INTO "task" VALUES(3,1,'canceled','canceled',1000.0,1,0,NULL,NULL,1000.0,0.0,X'7B22726F77223A2263616E63656C6564227D');
INSERT INTO "task" VALUES(4,1,'waiting',NULL,1060.0,1,2,NULL,'PROCESSING',1000.0,0.0,X'7B22726F77223A2277616974696E67227D');
CREATE TABLE undelivered (
    sink INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (sink, number)
) WITHOUT ROWID;
INSERT INTO "undelivered" VALUES(1,3);
INSERT INTO "undelivered" VALUES(2,1);
INSERT INTO "undelivered" VALUES(2,2);
INSERT INTO "undelivered" VALUES(2,3);
CREATE INDEX task_due ON task (account, due_at) WHERE kind IS NULL;
CREATE INDEX record_reason ON record (reason) WHERE reason IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('record',3);
COMMIT;
