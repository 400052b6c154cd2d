"""The screen behind a terminal: emulator, keys, device queries."""
