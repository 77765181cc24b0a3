"""Adapters made to be deleted from: people spread over shards, each an adapter of its own."""
