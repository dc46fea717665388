"""Our own model, and a file for each of its steps; docs/adr/0005-bayesian-model.md tells how they belong together."""
