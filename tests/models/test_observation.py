"""The observation model on torch tensors: equal to that on numpy arrays, and differentiable."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from hypothesis import given, settings
from hypothesis import strategies as st

from satfuse.errors import GridError
from satfuse.models.observation import degrade, upsample
from satfuse.sensors import degradation

RNG = np.random.default_rng(0)
IMAGE = RNG.random((3, 60, 90))
VALID = RNG.random((60, 90)) > 0.4


def on_torch(image, ratio, sigma, valid=None, dtype=torch.float64, shift=(0.0, 0.0)):
    valid = None if valid is None else torch.tensor(valid)[None, None]
    x = torch.tensor(image, dtype=dtype)[None]
    return degrade(x, ratio, sigma, valid=valid, shift=shift)[0].numpy()


@settings(max_examples=20, deadline=None)
@given(
    ratio=st.sampled_from([1, 2, 3, 5, 10, 15, 30]),
    sigma=st.floats(0.05, 1.2),
    shift=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    holes=st.booleans(),
)
def test_equals_numpy(ratio, sigma, shift, holes):
    valid = VALID if holes else None
    expected = degradation.degrade(IMAGE, ratio, sigma, shift=shift, valid=valid)
    np.testing.assert_allclose(
        on_torch(IMAGE, ratio, sigma, valid, shift=shift), expected, atol=1e-6
    )
    single = on_torch(IMAGE, ratio, sigma, valid, torch.float32, shift=shift)
    np.testing.assert_allclose(
        single[np.isfinite(expected)], expected[np.isfinite(expected)], atol=1e-5
    )


def test_one_width_per_band():
    widths = [0.3, 0.5, 0.9]
    np.testing.assert_allclose(
        on_torch(IMAGE, 10, widths), degradation.degrade(IMAGE, 10, widths), atol=1e-9
    )
    with pytest.raises(GridError, match="2 PSF widths for 3 bands"):
        on_torch(IMAGE, 10, [0.3, 0.5])


def test_values_in_holes_do_not_matter():
    wild = np.where(VALID, IMAGE, 1e6)
    np.testing.assert_array_equal(on_torch(wild, 10, 0.5, VALID), on_torch(IMAGE, 10, 0.5, VALID))


def test_gradient_is_right_and_finite_next_to_holes():
    image = torch.tensor(IMAGE[None, :1, :12, :12], requires_grad=True)
    valid = torch.tensor(VALID[None, None, :12, :12])
    assert torch.autograd.gradcheck(
        lambda x: degrade(x, 3, 0.5, valid=valid).nan_to_num(0.0), image
    )


def test_refuses_a_size_that_does_not_nest():
    with pytest.raises(GridError, match="60 x 90"):
        on_torch(IMAGE, 7, 0.5)


@pytest.mark.parametrize("ratio", [1, 2, 3, 10, 30])
def test_upsample_equals_torch_bicubic(ratio):
    coarse = torch.tensor(RNG.random((2, 3, 7, 5)))
    expected = torch.nn.functional.interpolate(
        coarse, scale_factor=ratio, mode="bicubic", align_corners=False
    )
    torch.testing.assert_close(upsample(coarse, ratio), expected, atol=1e-12, rtol=0)


def test_degrade_of_upsample_keeps_a_ramp_in_place():
    ramp = torch.arange(12.0, dtype=torch.float64).expand(1, 1, 12, 12)
    back = degrade(upsample(ramp, 10), 10)
    torch.testing.assert_close(back[..., 4:8, 4:8], ramp[..., 4:8, 4:8], atol=1e-9, rtol=0)


def test_mixed_precision_does_not_reach_reflectance():
    image = torch.tensor(IMAGE[None], dtype=torch.float32)
    expected = degrade(image, 10), upsample(image, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, (degrade(image, 10), upsample(image, 2)), expected))
