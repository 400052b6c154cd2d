"""What adapters share of reading: files and their ends, hostile JSON and texts, foreign databases, evidence."""
