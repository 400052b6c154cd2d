"""Generated code; see packaging/protos."""
