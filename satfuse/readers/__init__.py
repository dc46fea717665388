"""Readers: items of one sensor as one lazy Dataset with `valid`, `quality` and a ledger."""
