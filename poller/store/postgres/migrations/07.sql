-- which pieces of four bytes a run of tasks contains, as in store/grams.py
CREATE TABLE grams (
    last bigint PRIMARY KEY,
    first bigint NOT NULL,
    bits bytea NOT NULL
);
ALTER TABLE grams ALTER COLUMN bits SET STORAGE PLAIN;  -- in CREATE TABLE only since PostgreSQL 16
