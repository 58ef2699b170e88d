ALTER TABLE task RENAME COLUMN looks TO polls;
ALTER TABLE task RENAME COLUMN trail TO poll_log;
ALTER TABLE pruned RENAME COLUMN looks TO polls;
