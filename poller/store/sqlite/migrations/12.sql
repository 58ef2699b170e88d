-- later attempts at rows that are gone
ALTER TABLE import_sum ADD COLUMN tried_again INTEGER NOT NULL DEFAULT 0;
-- no task for attempts whose task is pruned: its key may be another's by now
UPDATE import_row SET task = 0 WHERE task IS NOT NULL AND NOT EXISTS (SELECT 1 FROM task WHERE key = import_row.task);
-- a source is found among a hundred thousand dropped files
CREATE INDEX source_name ON source (name);
CREATE INDEX source_fingerprint ON source (fingerprint)
