-- later attempts at rows that are gone
ALTER TABLE import_sum ADD COLUMN tried_again bigint NOT NULL DEFAULT 0;
-- a source is found among a hundred thousand dropped files; a path may be too long for a B-tree
CREATE INDEX source_name ON source USING hash (name);
CREATE INDEX source_fingerprint ON source USING hash (fingerprint);
