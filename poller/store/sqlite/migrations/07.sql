-- which pieces of four bytes a run of tasks contains, as in store/grams.py
CREATE TABLE grams (
    last INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    bits BLOB NOT NULL
)
