-- Sync. What is said of a node for others' sake is beside it, not in it: a workspace without sync has no row here,
-- but for its lives.

-- The revision of the last change of a node's content.
ALTER TABLE inode ADD COLUMN content_rev INTEGER NOT NULL DEFAULT 0;

-- Lives of stores: of this one, one each time that a daemon opened it, and of others that nodes here come from.
CREATE TABLE life (
    id             INTEGER PRIMARY KEY,
    ws             INTEGER NOT NULL,
    author         BLOB    NOT NULL,
    own            INTEGER NOT NULL,
    first_ino      INTEGER NOT NULL,     -- of its own: the first node that could be made in it,
    first_revision INTEGER NOT NULL,     -- and the last revision before it
    UNIQUE (ws, author)
);

-- Nodes that came from elsewhere, or that another replica knows. A node without a row was made here, in the last life
-- that began before it.
CREATE TABLE sync_node (
    ws          INTEGER NOT NULL,
    ino         INTEGER NOT NULL,
    life        INTEGER NOT NULL,        -- together with `origin`: its identity
    origin      INTEGER NOT NULL,
    base        BLOB,                    -- what this replica and its upstream agreed on last; NULL: nothing
    settled     INTEGER NOT NULL,        -- the revision here at which it was that
    by_replica  INTEGER NOT NULL,        -- who brought its last change, at which revision; 0: nobody
    by_revision INTEGER NOT NULL,
    PRIMARY KEY (ws, ino)
) WITHOUT ROWID;
CREATE UNIQUE INDEX sync_node_by_identity ON sync_node (ws, life, origin);

-- Content as it travels: the id of a file's content as of its revision, where its pieces are, and its pages.
CREATE TABLE sync_content (
    ws       INTEGER NOT NULL,
    ino      INTEGER NOT NULL,
    revision INTEGER NOT NULL,           -- inode.content_rev
    size     INTEGER NOT NULL,
    hash     BLOB    NOT NULL,
    depth    INTEGER NOT NULL,
    PRIMARY KEY (ws, ino)
) WITHOUT ROWID;

CREATE TABLE sync_piece (
    ws   INTEGER NOT NULL,
    hash BLOB    NOT NULL,
    ino  INTEGER NOT NULL,
    at   INTEGER NOT NULL,
    len  INTEGER NOT NULL,
    page BLOB,                           -- a page's own bytes; NULL: they are in the file
    PRIMARY KEY (ws, hash, ino, at)
) WITHOUT ROWID;
CREATE INDEX sync_piece_by_ino ON sync_piece (ws, ino);

-- Of a replica: where it is with its upstream.
CREATE TABLE sync (
    ws              INTEGER PRIMARY KEY,
    replica         BLOB    NOT NULL,
    upstream        BLOB,                -- the hub that it has joined; NULL: none
    cursor_life     BLOB,
    cursor_revision INTEGER NOT NULL DEFAULT 0,
    cursor_listed   INTEGER NOT NULL DEFAULT 0,
    offers          BLOB,                -- sent, and not answered
    pushed          INTEGER NOT NULL DEFAULT 0,
    floor           INTEGER NOT NULL DEFAULT 0, -- tombstones up to here may have been pruned
    conflicts       INTEGER NOT NULL DEFAULT 0
);

-- Of a hub: its replicas.
CREATE TABLE replica (
    id      INTEGER PRIMARY KEY,
    ws      INTEGER NOT NULL,
    replica BLOB    NOT NULL,
    label   TEXT    NOT NULL,
    applied INTEGER NOT NULL DEFAULT 0,
    pushed  INTEGER NOT NULL DEFAULT 0,
    life    BLOB,                        -- of the replica's store, that `pushed` is of
    seen    INTEGER NOT NULL,
    UNIQUE (ws, replica)
);

CREATE TABLE sync_conflict (
    id   INTEGER PRIMARY KEY,
    ws   INTEGER NOT NULL,
    time INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    path BLOB    NOT NULL,
    kept BLOB
);
