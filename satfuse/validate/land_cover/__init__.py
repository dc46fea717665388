"""Products compared by the classes of a land-cover map."""
