"""Simulated scenes with known truth: training scenes, and an archive in the official formats."""
