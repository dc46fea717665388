"""Readers: items of one sensor -> one lazy Dataset with `valid`, `quality` and a ledger of what was read."""
