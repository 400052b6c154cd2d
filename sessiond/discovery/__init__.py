"""Runs adapters, each in a process of its own that sleeps until a file or a process tells it something."""
