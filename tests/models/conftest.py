"""Fixtures of the models' tests."""

import pytest


@pytest.fixture(scope="session")
def prior():
    """What the shipped weights say of all bands."""
    from satfuse import checkpoint

    return checkpoint.load(checkpoint.SHIPPED / "bayesian")[0].prior
