-- later attempts at rows that are gone
ALTER TABLE import_sum ADD COLUMN tried_again INTEGER NOT NULL DEFAULT 0;
-- a source is found among a hundred thousand dropped files
CREATE INDEX source_name ON source (name);
CREATE INDEX source_fingerprint ON source (fingerprint);
-- no task for attempts whose task is pruned, also where its key is another row's by now
UPDATE import_row SET task = 0 WHERE task IS NOT NULL AND NOT EXISTS (SELECT 1 FROM task WHERE key = import_row.task);
UPDATE import_row SET task = 0 WHERE task > 0 AND key < (SELECT max(later.key) FROM import_row later WHERE later.task = import_row.task);
-- no rows of which all attempts are pruned: -1 marks those that go
UPDATE import_row SET task = -1 WHERE task = 0 AND instr(row, '~') = 0 AND attempts = 1;
UPDATE import_row SET task = -1 WHERE task = 0 AND instr(row, '~') = 0 AND attempts = 1 + (SELECT count(*) FROM import_row i
    WHERE i.account = import_row.account AND i.row > import_row.row || '~' AND i.row < import_row.row || '~:' AND i.task = 0);
UPDATE import_row SET task = -1 WHERE task = 0 AND instr(row, '~') > 0 AND EXISTS (SELECT 1 FROM import_row first
    WHERE first.account = import_row.account AND first.row = substr(import_row.row, 1, instr(import_row.row, '~') - 1) AND first.task = -1);
UPDATE import_sum SET (starts, lost, tried_again) = (SELECT import_sum.starts + coalesce(sum(i.starts), 0),
    import_sum.lost + coalesce(sum(i.lost), 0), coalesce(sum(i.attempts - 1), 0) FROM import_row i WHERE i.task = -1);
DELETE FROM import_row WHERE task = -1
