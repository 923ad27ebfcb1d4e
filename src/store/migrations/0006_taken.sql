-- What the last push of a replica offered that was taken: a digest. NULL: it is not known.
ALTER TABLE replica ADD COLUMN taken BLOB;
