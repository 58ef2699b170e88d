ALTER TABLE task ADD COLUMN requested_at double precision;
ALTER TABLE task ADD COLUMN trail text NOT NULL DEFAULT '';
CREATE TABLE knowledge (
    name text PRIMARY KEY,
    body bytea NOT NULL
);
