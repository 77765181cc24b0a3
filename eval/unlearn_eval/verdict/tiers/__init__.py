"""What stands for "never saw the records", one file a tier."""
