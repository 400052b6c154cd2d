"""Channel and typed API for everything that speaks to a supervisor."""
