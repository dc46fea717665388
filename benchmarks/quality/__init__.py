"""Every method on the same scenes: `python -m benchmarks.quality`; see docs/quality.md."""
