-- A chunk that is changed in place keeps its row, which its extents name; together with this number, which then is one
-- more, its id stands for the same bytes for ever.
ALTER TABLE chunk ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
