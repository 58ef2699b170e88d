-- a source is found among a hundred thousand dropped files; a path may be too long for a B-tree
CREATE INDEX source_name ON source USING hash (name);
CREATE INDEX source_fingerprint ON source USING hash (fingerprint);
-- later attempts at rows that are gone
ALTER TABLE import_sum ADD COLUMN tried_again bigint NOT NULL DEFAULT 0;
-- a fleet keeps the sum of all later attempts beside what waits
INSERT INTO kind_count AS c (replica, kind, tasks, landed, polls)
    SELECT '', '', 0, sum(attempts - 1), 0 FROM import_row WHERE attempts > 1 AND EXISTS (SELECT FROM kind_count) HAVING count(*) > 0
    ON CONFLICT (replica, kind) DO UPDATE SET landed = c.landed + excluded.landed;
-- no rows of which the task of every attempt is pruned
WITH attempt AS (SELECT account, split_part(row, '~', 1) AS first, count(*) AS gone
    FROM import_row i WHERE task IS NOT NULL AND NOT EXISTS (SELECT FROM task WHERE key = i.task) GROUP BY 1, 2),
    gone AS (DELETE FROM import_row i USING attempt a WHERE i.account = a.account AND a.first = split_part(i.row, '~', 1)
    AND a.gone = (SELECT f.attempts FROM import_row f WHERE f.account = a.account AND f.row = a.first)
    RETURNING i.account, i.starts, i.lost, i.attempts - 1 AS tried_again),
    x AS (SELECT account, sum(starts) AS starts, sum(lost) AS lost, sum(tried_again) AS tried_again FROM gone GROUP BY account)
    UPDATE import_sum s SET starts = s.starts + x.starts, lost = s.lost + x.lost, tried_again = s.tried_again + x.tried_again
    FROM x WHERE s.account = x.account;
