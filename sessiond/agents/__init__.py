"""What is kept of agents on disk: specs, ends, records of what they print; and their launcher."""
