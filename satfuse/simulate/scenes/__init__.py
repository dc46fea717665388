"""Simulated scenes as arrays, for training and for the benchmark."""
