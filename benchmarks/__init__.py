"""Speed and quality, each a command that prints its table: python -m benchmarks.NAME."""
