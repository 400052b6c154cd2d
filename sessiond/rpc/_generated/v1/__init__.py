"""Generated from protos/sessiond/v1; see packaging/protos."""
