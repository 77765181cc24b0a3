"""Compare methods: the same records, data order and references for all, resumable, in parallel.

A comparison is a set of steps (train the adapter under study, train a reference, unlearn, audit).
Each has a folder named by the digest of everything that its result depends on, so that whatever is
there already is found again, and a changed recipe does again only what it changed.
"""
