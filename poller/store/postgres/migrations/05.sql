ALTER TABLE task ADD COLUMN seen_at double precision;
ALTER TABLE task ADD COLUMN started_at double precision;
