"""SQLite metadata: the only user of sqlite3."""
