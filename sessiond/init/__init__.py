"""Backends of the init-system port; siblings that never import each other."""
