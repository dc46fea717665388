"""Scenes with known truth: spectra, surface, sensors, and an archive in the official formats."""
