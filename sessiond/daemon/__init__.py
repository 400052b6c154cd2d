"""A session daemon holds one session's terminals, records and store."""
