"""Validation by the classes of a land-cover map."""
