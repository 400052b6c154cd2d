"""What adapters share: ends of files, what is kept of unchanged ones, hostile texts, foreign databases."""
