"""The wire: generated code, codec between messages and model, status mapping, server."""
