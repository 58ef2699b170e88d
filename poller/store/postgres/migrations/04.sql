ALTER TABLE task ADD COLUMN landed boolean; -- NULL: waiting
ALTER TABLE pruned ADD COLUMN landed bigint NOT NULL DEFAULT 0;
UPDATE pruned SET landed = tasks WHERE kind = 'complete';
-- each lists its tasks in feeding order
CREATE INDEX task_outcome ON task (kind, landed, key) WHERE kind IS NOT NULL;
DROP INDEX record_reason;
CREATE INDEX record_reason ON record (reason, task) WHERE reason IS NOT NULL;
DROP INDEX record_seen;
CREATE INDEX record_seen ON record (seen_at, task);
