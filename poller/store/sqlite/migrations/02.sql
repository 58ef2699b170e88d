CREATE TABLE pruned (
    kind TEXT PRIMARY KEY,
    tasks INTEGER NOT NULL,
    looks INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX record_seen ON record (seen_at);
-- what was pruned before a sink got it
ALTER TABLE sink ADD COLUMN missed INTEGER NOT NULL DEFAULT 0
