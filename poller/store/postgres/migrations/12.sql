-- tasks that were polled before apart from those that never were: all first polls of a large feed are due before them
DROP INDEX task_due;
CREATE INDEX task_due ON task (account, least(polls, 1), due_at, key) WHERE kind IS NULL;
