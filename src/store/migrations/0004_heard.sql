-- What was left out of sync when this replica was last in step: a pattern a line. NULL: it never was.
ALTER TABLE sync ADD COLUMN ignored TEXT;
-- Where the upstream was when it took something of ours last. NULL: it never did. An upstream that was never there is an old
-- copy of itself.
ALTER TABLE sync ADD COLUMN heard_life BLOB;
ALTER TABLE sync ADD COLUMN heard_revision INTEGER NOT NULL DEFAULT 0;
