"""Templates to copy; CONTRIBUTING.md says how, tests/test_examples.py runs them."""
