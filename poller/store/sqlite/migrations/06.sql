<<<<<<< HEAD
ALTER TABLE task ADD COLUMN seen_at REAL;
ALTER TABLE task ADD COLUMN started_at REAL
=======
-- which pieces of four bytes a run of tasks contains, as in store/grams.py
CREATE TABLE grams (
    last INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    bits BLOB NOT NULL
)
>>>>>>> wt/find
