"""The tables of the job store, and what brings an older file up to them."""

from __future__ import annotations

import sqlite3
from typing import Final

from engine.errors import ResourceError

VERSION: Final = 2
_CACHE_KIB: Final = 512
"""Of pages that a connection keeps: the system keeps them too, and by default each would grow to four times as much with the store."""

_PROGRESS: Final = """
-- nodes that a job has finished at least once: a worker that finishes no other makes no progress
CREATE TABLE progress (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE, node TEXT NOT NULL, PRIMARY KEY (job, node)
) STRICT, WITHOUT ROWID;
"""

_TABLES: Final = f"""
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    client TEXT NOT NULL,
    priority INTEGER NOT NULL,
    number REAL NOT NULL,
    in_order INTEGER NOT NULL,
    labels TEXT NOT NULL,
    models TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    outputs TEXT NOT NULL DEFAULT '{{}}',
    errors TEXT NOT NULL DEFAULT '[]',
    last_event INTEGER NOT NULL DEFAULT 0,
    hidden INTEGER NOT NULL DEFAULT 0   -- taken out of ComfyUI's history by a client, and out of nothing else
) STRICT;
CREATE INDEX jobs_by_state ON jobs (state, created);
CREATE INDEX jobs_by_time ON jobs (created);
CREATE INDEX jobs_by_end ON jobs (finished) WHERE finished IS NOT NULL;

CREATE TABLE payloads (job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE, body TEXT NOT NULL) STRICT;

CREATE TABLE labels (
    name TEXT NOT NULL, value TEXT NOT NULL, job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    PRIMARY KEY (name, value, job)
) STRICT, WITHOUT ROWID;
CREATE INDEX labels_by_job ON labels (job);

CREATE TABLE idempotency (
    client TEXT NOT NULL, key TEXT NOT NULL, job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE, request TEXT NOT NULL,
    PRIMARY KEY (client, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_job ON idempotency (job);

-- a worker's claim on a job; what it says with an older token than this counts for nothing
CREATE TABLE leases (
    job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    token INTEGER NOT NULL, worker TEXT NOT NULL, pid INTEGER NOT NULL, taken REAL NOT NULL, expires REAL NOT NULL
) STRICT;

-- events that were stored together, of one job: numbers first..last
CREATE TABLE events (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE, body BLOB NOT NULL
) STRICT;
CREATE INDEX events_by_job ON events (job, first);

CREATE TABLE outputs (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE, node TEXT NOT NULL, digest TEXT NOT NULL, filename TEXT NOT NULL,
    subfolder TEXT NOT NULL, kind TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL
) STRICT;
CREATE INDEX outputs_by_digest ON outputs (digest);
CREATE INDEX outputs_by_job ON outputs (job);

-- where a job's half-finished nodes are kept
CREATE TABLE checkpoints (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE, node TEXT NOT NULL, place TEXT NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (job, node, place)
) STRICT, WITHOUT ROWID;

{_PROGRESS}
-- numbers that only grow: event, token, number
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
INSERT INTO counters VALUES ('event', 0), ('token', 0), ('number', 0);
"""

_UPGRADES: Final = {1: _PROGRESS}
"""What brings a store of a version to the next."""


def open_database(path: str) -> sqlite3.Connection:
    """The writing connection, with its tables. Raises ``ResourceError`` for a file that is no store, or of a newer version."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("PRAGMA wal_autocheckpoint = 2000")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        for older in range(version or VERSION, VERSION):
            connection.executescript(f"BEGIN IMMEDIATE; {_UPGRADES[older]} PRAGMA user_version = {older + 1}; COMMIT;")
        if version > VERSION:
            raise ResourceError(
                f"expected a job store of version {VERSION}, found {version} in {path}; start the newer release it was made by"
            )
    except sqlite3.Error as error:
        raise ResourceError(
            f"cannot use the job store {path} ({error}); move it away to start with an empty one"
        ) from error
    return connection


def open_reader(path: str) -> sqlite3.Connection:
    """A connection that reads beside the writing one."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection
