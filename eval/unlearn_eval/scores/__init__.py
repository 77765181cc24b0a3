"""What a model says of records, token by token, and where that is kept."""
