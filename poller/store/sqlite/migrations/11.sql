-- lines whose task had ended before, but not complete, and the digest of a file that was read to its end
ALTER TABLE source ADD COLUMN failed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE source ADD COLUMN digest TEXT NOT NULL DEFAULT ''
