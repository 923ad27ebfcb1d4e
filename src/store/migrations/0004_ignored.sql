-- What was left out of sync when this replica was last in step: a pattern a line. NULL: it never was.
ALTER TABLE sync ADD COLUMN ignored TEXT;
