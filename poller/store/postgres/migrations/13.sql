-- lines whose task had ended before, but not complete, and the digest of a file that was read to its end
ALTER TABLE source ADD COLUMN failed bigint NOT NULL DEFAULT 0, ADD COLUMN digest text NOT NULL DEFAULT '';
