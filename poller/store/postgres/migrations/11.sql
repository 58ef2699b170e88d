-- lists what has not been accepted yet in feeding order
CREATE INDEX import_row_without_task ON import_row (key) WHERE task IS NULL;
