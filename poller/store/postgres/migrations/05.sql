<<<<<<< HEAD
ALTER TABLE task ADD COLUMN seen_at double precision;
ALTER TABLE task ADD COLUMN started_at double precision;
=======
-- which pieces of four bytes a run of tasks contains, as in store/grams.py
CREATE TABLE grams (
    last bigint PRIMARY KEY,
    first bigint NOT NULL,
    bits bytea STORAGE PLAIN NOT NULL
);
>>>>>>> wt/find
