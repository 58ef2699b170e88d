-- later attempts at rows that are gone
ALTER TABLE import_sum ADD COLUMN tried_again bigint NOT NULL DEFAULT 0;
