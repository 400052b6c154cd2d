"""gRPC services of a session daemon: each parses, makes one call, replies."""
