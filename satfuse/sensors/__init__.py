"""What the instruments are: bands, quality flags, spectral responses, the observation model."""
