"""How alike two images are at every frequency: what `metrics.radial_power` cannot tell from power alone."""

import numpy as np

from satfuse import metrics
from satfuse.errors import GridError


def radial_coherence(band, reference):
    """Magnitude-squared coherence of two bands (y, x) over frequency: 1 = the same pattern, whatever its contrast.

    `<A conj(B)>^2 / (<|A|^2> <|B|^2>)` with means over rings of frequency. The cross spectrum of real images is real
    in the mean of a ring, so a displacement lowers the score. Unrelated images score about the inverse of a ring's
    number of independent cells (4 in the innermost ring), not 0.

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
            f"coherence compares images of one shape; got {np.shape(band)} and {np.shape(reference)}"
        )
    a, b = metrics.windowed_fft(band), metrics.windowed_fft(reference)
    frequency, cross = metrics.ring_means((a * b.conj()).real)
    both = metrics.ring_means(np.abs(a) ** 2)[1] * metrics.ring_means(np.abs(b) ** 2)[1]
    return frequency, np.divide(cross**2, both, out=np.full_like(cross, np.nan), where=both > 0)


def coherence_ranges(band, reference, ratio) -> dict[str, float]:
    """Coherence of two bands in the ranges of `metrics.radial_power_ratio`, weighted by the power of `band`."""
    frequency, coherence = radial_coherence(band, reference)
    weight = frequency * metrics.radial_power(band)[1] * np.isfinite(coherence)
    sums = {
        name: (weight[inside].sum(), (weight * np.nan_to_num(coherence))[inside].sum())
        for name, inside in metrics.frequency_ranges(frequency, ratio).items()
    }
    return {name: float(part / all_) if all_ > 0 else np.nan for name, (all_, part) in sums.items()}


def cutoff(band, reference) -> float:
    """Highest frequency in cycles per pixel up to which `band` holds half of the power of `reference`, both (y, x).

    The first ring of `radial_power` whose power falls below half of the reference's ends the search: 0.5 = as sharp
    as the reference throughout, 0 = never.
    """
    frequency, power = metrics.radial_power(band)
    _, expected = metrics.radial_power(reference)
    lost = np.flatnonzero(power < 0.5 * expected)
    return 0.5 if not lost.size else float(frequency[lost[0] - 1]) if lost[0] else 0.0
