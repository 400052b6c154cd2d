"""What adapters share: ends of files, what is known of them, hostile JSON and texts, databases, evidence."""
