-- Rows of a workspace carry its id first and, last in the key, `since`: the revision from which the row holds.
-- The row that holds now is the one with the greatest `since`. As long as no snapshot needs an older row it is
-- replaced in place and `since` is 0; once a snapshot is taken (`workspace.pinned`), a change adds a row instead,
-- and a removal adds one with `dead = 1`. So a snapshot costs one row, and nothing is copied.

CREATE TABLE workspace (
    id       INTEGER PRIMARY KEY,
    uuid     TEXT    NOT NULL UNIQUE,
    revision INTEGER NOT NULL,           -- of the last change that is in the store
    next_ino INTEGER NOT NULL,
    pinned   INTEGER NOT NULL DEFAULT 0, -- revision of the newest snapshot; 0: there is none
    created  INTEGER NOT NULL            -- nanoseconds since the epoch, as all times
);

CREATE TABLE inode (
    ws          INTEGER NOT NULL,
    ino         INTEGER NOT NULL,
    since       INTEGER NOT NULL,
    dead        INTEGER NOT NULL DEFAULT 0,
    rev         INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    mode        INTEGER NOT NULL,
    uid         INTEGER NOT NULL,
    gid         INTEGER NOT NULL,
    rdev        INTEGER NOT NULL,
    nlink       INTEGER NOT NULL,
    size        INTEGER NOT NULL,
    allocated   INTEGER NOT NULL,
    atime       INTEGER NOT NULL,
    mtime       INTEGER NOT NULL,
    ctime       INTEGER NOT NULL,
    btime       INTEGER NOT NULL,
    parent      INTEGER NOT NULL,
    next_cookie INTEGER NOT NULL,
    storage     INTEGER NOT NULL,
    has_xattrs  INTEGER NOT NULL,
    PRIMARY KEY (ws, ino, since)
) WITHOUT ROWID;
CREATE INDEX inode_orphans ON inode (ws, ino) WHERE nlink = 0 AND dead = 0;

CREATE TABLE dirent (
    ws     INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    name   BLOB    NOT NULL,
    since  INTEGER NOT NULL,
    dead   INTEGER NOT NULL DEFAULT 0,
    ino    INTEGER NOT NULL,
    kind   INTEGER NOT NULL,
    cookie INTEGER NOT NULL,
    PRIMARY KEY (ws, parent, name, since)
) WITHOUT ROWID;
CREATE INDEX dirent_by_ino ON dirent (ws, ino);

CREATE TABLE content (
    id    INTEGER PRIMARY KEY,
    ws    INTEGER NOT NULL,
    ino   INTEGER NOT NULL,
    since INTEGER NOT NULL,
    dead  INTEGER NOT NULL DEFAULT 0,
    data  BLOB    NOT NULL,
    UNIQUE (ws, ino, since)
);

CREATE TABLE extent (
    ws    INTEGER NOT NULL,
    ino   INTEGER NOT NULL,
    idx   INTEGER NOT NULL,
    since INTEGER NOT NULL,
    chunk INTEGER,                       -- NULL: a hole, where an older row says otherwise
    PRIMARY KEY (ws, ino, idx, since)
) WITHOUT ROWID;

CREATE TABLE xattr (
    ws    INTEGER NOT NULL,
    ino   INTEGER NOT NULL,
    name  BLOB    NOT NULL,
    since INTEGER NOT NULL,
    dead  INTEGER NOT NULL DEFAULT 0,
    value BLOB    NOT NULL,
    PRIMARY KEY (ws, ino, name, since)
) WITHOUT ROWID;

-- Content, shared by all workspaces. `refs` counts the extents that point here. An id stands for the same bytes
-- for ever: a chunk that is changed in place gets a new one.
CREATE TABLE chunk (
    id   INTEGER PRIMARY KEY,
    refs INTEGER NOT NULL,
    len  INTEGER NOT NULL,
    data INTEGER NOT NULL,               -- where in chunk_data its bytes are
    room INTEGER NOT NULL,               -- bytes there; those from `len` on are zero
    hash BLOB    UNIQUE                  -- BLAKE3; NULL once it was changed in place
);
CREATE INDEX chunk_unused ON chunk (id) WHERE refs = 0;

CREATE TABLE chunk_data (
    id   INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);

-- Nodes that are gone, but whose many extents are still to be deleted.
CREATE TABLE doomed (
    ws  INTEGER NOT NULL,
    ino INTEGER NOT NULL,
    PRIMARY KEY (ws, ino)
) WITHOUT ROWID;

CREATE TABLE tombstone (
    ws  INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    ino INTEGER NOT NULL,
    PRIMARY KEY (ws, rev, ino)
) WITHOUT ROWID;
