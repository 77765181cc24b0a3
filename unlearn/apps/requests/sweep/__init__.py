"""Finding what else holds deleted records, and cleaning it up."""
