"""Products: where they are stored, how they are written, published, opened and exported."""
