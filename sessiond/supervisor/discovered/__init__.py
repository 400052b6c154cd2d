"""Conversations as they are known: rows that adapters told, overlays, and one view of both."""
