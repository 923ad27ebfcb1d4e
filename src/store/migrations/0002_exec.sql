-- Commands that ran in a workspace, and what they said. They are not part of its tree: a snapshot has none.

CREATE TABLE exec (
    ws             INTEGER NOT NULL,
    id             TEXT    NOT NULL,
    command        BLOB    NOT NULL,
    cwd            BLOB    NOT NULL,
    pid            INTEGER NOT NULL,
    started        INTEGER NOT NULL,
    ended          INTEGER,            -- NULL: it runs, or the daemon was killed while it did
    start_revision INTEGER NOT NULL,
    end_revision   INTEGER NOT NULL,
    first_seq      INTEGER NOT NULL,   -- the first event that is kept
    complete       INTEGER NOT NULL,   -- whether all its changes are
    PRIMARY KEY (ws, id)
) WITHOUT ROWID;

CREATE TABLE exec_event (
    ws   INTEGER NOT NULL,
    exec TEXT    NOT NULL,
    seq  INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    data BLOB    NOT NULL,
    PRIMARY KEY (ws, exec, seq)
) WITHOUT ROWID;

CREATE TABLE exec_change (
    ws        INTEGER NOT NULL,
    exec      TEXT    NOT NULL,
    number    INTEGER NOT NULL,
    revision  INTEGER NOT NULL,
    kind      INTEGER NOT NULL,
    node      INTEGER NOT NULL,
    ino       INTEGER NOT NULL,
    path      BLOB    NOT NULL,
    came_from BLOB,
    PRIMARY KEY (ws, exec, number)
) WITHOUT ROWID;
