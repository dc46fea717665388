"""Quality flags: the range of reflectance, and the CF description of the bits."""

import numpy as np

from satfuse.sensors.quality import HIGHEST_REFLECTANCE, Quality, flag_attrs, out_of_range


def test_reflectance_is_out_of_range_where_any_band_is():
    reflectance = np.full((2, 1, 5), 0.3, np.float32)
    reflectance[0, 0] = [0.0, HIGHEST_REFLECTANCE, -0.01, 0.3, np.nan]
    reflectance[1, 0, 3] = 1.7
    flagged = out_of_range(reflectance)
    assert flagged.dtype == bool
    assert flagged.tolist() == [[False, False, True, True, False]]


def test_every_flag_has_a_bit_and_a_meaning():
    attrs = flag_attrs()
    meanings = attrs["flag_meanings"].split()
    assert attrs["flag_masks"].dtype == np.uint16
    assert dict(zip(meanings, attrs["flag_masks"], strict=True))["out_of_range"] == 1024
    assert len(meanings) == len(Quality)
