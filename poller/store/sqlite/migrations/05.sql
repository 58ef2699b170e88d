ALTER TABLE task ADD COLUMN landed INTEGER; -- NULL: waiting
UPDATE task SET landed = landed_in((SELECT body FROM record WHERE record.task = task.key)) WHERE kind IS NOT NULL;
ALTER TABLE pruned ADD COLUMN landed INTEGER NOT NULL DEFAULT 0;
UPDATE pruned SET landed = tasks WHERE kind = 'complete';
-- each lists its tasks in feeding order
CREATE INDEX task_outcome ON task (kind, landed) WHERE kind IS NOT NULL;
DROP INDEX record_reason;
CREATE INDEX record_reason ON record (reason, task) WHERE reason IS NOT NULL;
DROP INDEX record_seen;
CREATE INDEX record_seen ON record (seen_at, task)
