"""The SQLite tables of an index. What they say is true; the files of vectors beside them may be longer after a crash.

photos: every file that was seen, with the row of its embedding, or the reason why it has none. Files of equal content share a
row. ids are never given twice, so a client's id cannot become another photo.
rows: each embedding, with the digest of the file it was made from; a photo that was moved, or deleted and comes back, has one.
state: the number of rows, the names of the vector files in use, the mean and the number of rows that it is of.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from vlp.system.errors import UserError

FILE = "photos.sqlite"
WAIT_S = 30.0  # for the moment in which another process commits
TABLES = """
create table if not exists photos (
  id integer primary key autoincrement, path text not null unique, row integer, size integer not null,
  changed integer not null, checked integer not null, digest blob, taken text, error text);
create index if not exists photos_by_row on photos (row);
create index if not exists photos_by_taken on photos (taken);
create table if not exists rows (row integer primary key, digest blob not null unique);
create table if not exists roots (path text primary key);
create table if not exists state (name text primary key, value);
"""


def connect(folder: Path, *, create: bool = False) -> sqlite3.Connection:
    """For threads that take turns (a lock is the caller's business).  Raises UserError where there is no database or a damaged one.

    Readers too open it for writing where they may: what a killed writer left has to be rolled back.
    """
    file = (folder / FILE).absolute()
    mode = "rwc" if create else "rw" if os.access(file, os.W_OK) and os.access(folder, os.W_OK) else "ro"
    try:
        connection = sqlite3.connect(
            f"{file.as_uri()}?mode={mode}", uri=True, timeout=WAIT_S, check_same_thread=False, isolation_level=None
        )
        if create:
            connection.executescript(TABLES)
        connection.execute("select count(*) from state").fetchone()
    except sqlite3.Error as error:
        raise UserError(f"{file}: not readable ({error}); delete {folder} and index the photos again") from error
    return connection


def read_state(connection: sqlite3.Connection) -> dict[str, str | int]:
    return dict(connection.execute("select name, value from state"))


def path_range(folder: str) -> tuple[str, str]:
    """Bounds of the paths below a folder, for `path >= ? and path < ?`: the index on path is used, and no wildcard can occur."""
    prefix = folder if folder.endswith("/") else folder + "/"
    return prefix, prefix[:-1] + chr(ord("/") + 1)
