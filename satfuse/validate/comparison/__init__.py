"""Several products of one place, compared."""
