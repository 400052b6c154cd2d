"""The supervisor turns API calls into units, and unit signals into answers and events."""
