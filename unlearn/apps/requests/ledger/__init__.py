"""The ledger of deletion requests: an authenticated history, encrypted records beside it."""
