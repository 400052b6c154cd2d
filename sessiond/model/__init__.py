"""What a session and an event is; the one state table. Standard library only."""
