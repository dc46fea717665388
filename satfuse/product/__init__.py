"""Products: where they lie, how they are written, published, found and exported."""
