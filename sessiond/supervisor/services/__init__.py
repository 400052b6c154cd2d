"""The rooms of the API: each parses, makes one call, replies."""
