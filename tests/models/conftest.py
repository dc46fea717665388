"""Fixtures of the models' tests."""

import pytest


@pytest.fixture(scope="session")
def prior():
    """Prior of the spectral map for all bands, from the shipped weights."""
    from satfuse import checkpoint

    return checkpoint.load(checkpoint.SHIPPED / "bayesian")[0].prior
