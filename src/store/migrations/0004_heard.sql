-- What was left out of sync when this replica was last in step: a pattern a line. NULL: it never was.
ALTER TABLE sync ADD COLUMN ignored TEXT;
-- Where the upstream was when it told something last that is applied here, or took something of ours. NULL: it never did. An
-- upstream that was never there is an old copy of itself, or another one.
ALTER TABLE sync ADD COLUMN heard_life BLOB;
ALTER TABLE sync ADD COLUMN heard_revision INTEGER NOT NULL DEFAULT 0;
