"""What an audit is made of, and how it is kept in files."""
