"""Similarity of two images over frequency, which power alone (`metrics.radial_power`) hides."""

import numpy as np

from satfuse import metrics
from satfuse.arrays import FloatArray
from satfuse.errors import GridError


def radial_coherence(band: FloatArray, reference: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Magnitude-squared coherence of two bands (y, x) over frequency.

    1 = the same pattern, whatever its contrast. `<A conj(B)>^2 / (<|A|^2> <|B|^2>)` with means over
    rings of frequency. The cross spectrum of real images is real in the mean of a ring, so a
    displacement lowers the score. Unrelated images score about the inverse of a ring's number of
    independent cells (4 in the innermost ring), not 0.

    Returns
    -------
    frequency : (n,) cycles per pixel, as in `radial_power`.
    coherence : (n,) 0 to 1, NaN where one of the images has no power.

    Raises
    ------
    GridError
        Images of different shapes.
    """
    if np.shape(band) != np.shape(reference):
        raise GridError(
            "coherence compares images of one shape; "
            f"got {np.shape(band)} and {np.shape(reference)}"
        )
    a = metrics.windowed_fft(band)
    b = metrics.windowed_fft(reference)
    # the mean over a ring before the square: phases that differ at random cancel
    frequency, cross = metrics.ring_means((a * b.conj()).real)
    _, power_a = metrics.ring_means(np.abs(a) ** 2)
    _, power_b = metrics.ring_means(np.abs(b) ** 2)
    both = power_a * power_b
    return frequency, np.divide(cross**2, both, out=np.full_like(cross, np.nan), where=both > 0)


def coherence_ranges(band: FloatArray, reference: FloatArray, ratio: int) -> dict[str, float]:
    """Coherence of two bands (y, x) in the ranges "low", "medium" and "high".

    The ranges are those of `metrics.radial_power_ratio`; rings are weighted by the power of `band`.
    """
    frequency, coherence = radial_coherence(band, reference)
    _, power = metrics.radial_power(band)
    # a ring at radius f has about f cells: weigh by it to get the power of the whole range
    weight = frequency * power * np.isfinite(coherence)
    coherent = weight * np.nan_to_num(coherence)
    result = {}
    for name, inside in metrics.frequency_ranges(frequency, ratio).items():
        total = weight[inside].sum()
        result[name] = float(coherent[inside].sum() / total) if total > 0 else np.nan
    return result


def cutoff(band: FloatArray, reference: FloatArray) -> float:
    """Highest frequency up to which a band keeps half of the power of a reference, both (y, x).

    Returns
    -------
    Cycles per pixel: the frequency before the first ring of `radial_power` whose power falls below
    half of the reference's. 0.5 = as sharp as the reference throughout, 0 = in no ring.
    """
    frequency, power = metrics.radial_power(band)
    _, expected = metrics.radial_power(reference)
    blurred = np.flatnonzero(power < 0.5 * expected)
    if not blurred.size:
        return 0.5
    return float(frequency[blurred[0] - 1]) if blurred[0] else 0.0
