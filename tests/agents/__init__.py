"""Adapters against the real agent programs, which speak to a model server of our own."""
