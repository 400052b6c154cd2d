"""The limit: the least that finds conversations. Reads the two ends of files, and the rows of a database.

Run as a program with the path of a JSON object: files as [path, head, tail] and a database with its query.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys


def main(place: str) -> None:
    """Read everything and make nothing of it."""
    with open(place) as file:
        given = json.load(file)
    for path, head, tail in given["files"]:
        descriptor = os.open(path, os.O_RDONLY)
        size = os.fstat(descriptor).st_size
        if size <= head + tail:
            os.pread(descriptor, size, 0)
        else:
            os.pread(descriptor, head, 0)
            os.pread(descriptor, tail, size - tail)
        os.close(descriptor)
    database = sqlite3.connect(f"file:{given['database']}?mode=ro", uri=True)
    rows = len(database.execute(given["query"]).fetchall())
    database.close()
    print(len(given["files"]) + rows)


if __name__ == "__main__":
    main(sys.argv[1])
