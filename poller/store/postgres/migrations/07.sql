-- which pieces of four bytes a run of tasks contains, as in store/grams.py
CREATE TABLE grams (
    last bigint PRIMARY KEY,
    first bigint NOT NULL,
    bits bytea STORAGE PLAIN NOT NULL
);
