ALTER TABLE task ADD COLUMN start bytea -- NULL: its id was fed
