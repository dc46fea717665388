"""How far one image lies from another: plain numpy, float64 inside, valid pixels only.

Images are (band, y, x); `valid` is (y, x) bool, True = compare here, all finite pixels by default. A pixel that is
not finite in either image is left out. Per-band scores come as (band,) arrays. Nothing valid gives NaN.
"""

import numpy as np
from scipy.ndimage import laplace
from skimage.metrics import structural_similarity

from satfuse.errors import BandError, GridError


def rmse(image, reference, valid=None, *, per_band=False):
    """Root mean square difference in the unit of the images (reflectance): over everything, or (band,)."""
    x, z = _pixels(image, reference, valid)
    square = (x - z) ** 2
    return np.sqrt(_mean(square, axis=1)) if per_band else float(np.sqrt(_mean(square)))


def bias(image, reference, valid=None):
    """Mean of `image - reference` per band, (band,), in the unit of the images."""
    x, z = _pixels(image, reference, valid)
    return _mean(x - z, axis=1)


def psnr(image, reference, valid=None, *, data_range=1.0, per_band=False):
    """Peak signal to noise ratio in dB: `20 log10(data_range / RMSE)` of all values, or (band,). Infinite if equal."""
    with np.errstate(divide="ignore"):
        return 20 * np.log10(
            data_range / np.asarray(rmse(image, reference, valid, per_band=per_band))
        )


def sam_map_rad(image, reference):
    """Spectral angle of every pixel in radians, (y, x); NaN where undefined (a zero or not finite spectrum).

    `2 atan2(|u - v|, |u + v|)` of the unit vectors: exact for small angles, where arccos is noise (Kahan 2006).
    """
    x, z = _same(image, reference)
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = (a / np.linalg.norm(a, axis=0) for a in (x, z))
        return 2 * np.arctan2(np.linalg.norm(u - v, axis=0), np.linalg.norm(u + v, axis=0))


def sam_rad(image, reference, valid=None) -> float:
    """Mean spectral angle in radians; pixels whose spectrum is zero in either image are left out."""
    angle = sam_map_rad(image, reference)
    angle = angle if valid is None else angle[np.asarray(valid, bool)]
    return float(_mean(angle[np.isfinite(angle)]))


def sam_deg(image, reference, valid=None) -> float:
    """Mean spectral angle in degrees, see `sam_rad`."""
    return float(np.rad2deg(sam_rad(image, reference, valid)))


def ergas(image, reference, ratio, valid=None, *, minimum_mean=1e-3) -> float:
    """Relative global error in synthesis, `100 / ratio * sqrt(mean_k (RMSE_k / mean_k)^2)` (Wald 2002).

    `ratio` is fine pixels per coarse pixel. Bands whose reference mean lies below `minimum_mean` are left out:
    they would decide the score alone.
    """
    x, z = _pixels(image, reference, valid)
    mean = _mean(z, axis=1)
    error = np.sqrt(_mean((x - z) ** 2, axis=1))
    bright = mean >= minimum_mean
    return float(100 / ratio * np.sqrt(_mean((error[bright] / mean[bright]) ** 2)))


def ssim(image, reference, valid=None, *, data_range) -> np.ndarray:
    """Structural similarity per band, (band,): 11 x 11 Gaussian window of sigma 1.5, population covariance.

    Wang et al. 2004 with K1 0.01 and K2 0.03, by scikit-image. Invalid pixels take the mean of the valid reference
    in both images, and windows centred on them do not count; nor do the 5 pixels at the border.

    Raises
    ------
    GridError
        An image of fewer than 11 x 11 pixels.
    """
    x, z = _same(image, reference)
    if min(x.shape[1:]) < 11:
        raise GridError(
            f"SSIM needs at least 11 x 11 pixels, the image has {x.shape[1]} x {x.shape[2]}"
        )
    good = _usable(x, z, valid)
    inner = np.zeros_like(good)
    inner[5:-5, 5:-5] = good[5:-5, 5:-5]
    scores = np.full(len(x), np.nan)
    for k in range(len(x) if inner.any() else 0):
        fill = z[k][good].mean()
        a, b = (np.where(good, band, fill) for band in (x[k], z[k]))
        _, full = structural_similarity(
            a,
            b,
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        scores[k] = full[inner].mean()
    return scores


def panchromatic_ssim(image, guide) -> float:
    """SSIM of the band means of an image and its guide, with the guide's range (Cristille et al. 2024, "SSI").

    NaN for images of less than 11 x 11 pixels, and for a guide without any value.
    """
    image, guide = (np.asarray(a, float).mean(axis=0, keepdims=True) for a in (image, guide))
    if min(guide.shape[1:]) < 11 or not np.isfinite(guide).any():
        return np.nan
    return float(ssim(image, guide, data_range=np.nanmax(guide) - np.nanmin(guide))[0])


def uiqi(image, reference, valid=None, *, block=32) -> np.ndarray:
    """Universal image quality index per band, (band,), mean over blocks side by side (Wang and Bovik 2002).

    Blocks that hold an invalid pixel or overhang the border are left out; two equal constant blocks count 1.
    """
    x, z = _blocks(image, reference, valid, block)
    mx, mz = x.mean(-1), z.mean(-1)
    covariance = ((x - mx[..., None]) * (z - mz[..., None])).mean(-1)
    top, bottom = 4 * covariance * mx * mz, (x.var(-1) + z.var(-1)) * (mx**2 + mz**2)
    equal = (x == z).all(-1)
    return _mean(
        np.where(equal, 1.0, np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)),
        axis=1,
    )


def q2n(image, reference, valid=None, *, block=32) -> float:
    """Q2n of multiband images: UIQI with pixels as 2^n-ary hypercomplex numbers (Garzelli and Nencini 2009).

    Bands are padded with zeros to a power of two; blocks as in `uiqi`. 1 is best.
    """
    x, z = _blocks(image, reference, valid, block)
    size = 1 << max(len(x) - 1, 0).bit_length()
    x, z = (np.pad(a, ((0, size - len(a)), (0, 0), (0, 0))) for a in (x, z))
    mx, mz = x.mean(-1), z.mean(-1)
    product = _hyper(x - mx[..., None], _conjugate(z - mz[..., None])).mean(-1)
    energy = ((x - mx[..., None]) ** 2).sum(0).mean(-1) + ((z - mz[..., None]) ** 2).sum(0).mean(-1)
    ax, az = np.linalg.norm(mx, axis=0), np.linalg.norm(mz, axis=0)
    top, bottom = 4 * np.linalg.norm(product, axis=0) * ax * az, energy * (ax**2 + az**2)
    equal = (x == z).all(axis=(0, -1))
    return float(
        _mean(
            np.where(equal, 1.0, np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0))
        )
    )


def jensen_shannon(p, q) -> float:
    """Jensen-Shannon divergence of two spectra that are scaled to sum 1; natural logarithm, 0 to ln 2.

    The divergence itself; SciPy's `jensenshannon` is its square root. Blind to brightness: put a bias beside it.
    """
    p, q = (np.clip(np.asarray(a, float), 0, None) for a in (p, q))
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    return float(sum((a[a > 0] * np.log(a[a > 0] / m[a > 0])).sum() for a in (p, q)) / 2)


def cosine(image, reference, valid=None, *, per_band=False):
    """Cosine of the angle between the vectorised images. Near 1 for any two reflectance images: never a sole score."""
    x, z = _pixels(image, reference, valid)
    axis = 1 if per_band else None
    with np.errstate(invalid="ignore"):
        return (x * z).sum(axis) / np.sqrt((x * x).sum(axis) * (z * z).sum(axis))


def euclidean(image, reference, valid=None, *, per_band=False):
    """Norm of the difference over all valid pixels, in the unit of the images; grows with the image."""
    x, z = _pixels(image, reference, valid)
    return np.sqrt(((x - z) ** 2).sum(1 if per_band else None))


def scc(image, reference, valid=None) -> np.ndarray:
    """Spatial correlation per band, (band,): Pearson's r of the Laplacian-filtered bands, a score of sharpness."""
    x, z = _same(image, reference)
    filtered = [np.stack([laplace(band, mode="nearest") for band in a]) for a in (x, z)]
    return np.array([pearson(a, b) for a, b in zip(*_pixels(*filtered, valid), strict=True)])


def pearson(a, b) -> float:
    """Correlation of two arrays over the values that are finite in both; NaN where one of them is constant."""
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    good = np.isfinite(a) & np.isfinite(b)
    a, b = (v[good] - _mean(v[good]) for v in (a, b))
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else np.nan


def ndvi(red, nir) -> np.ndarray:
    """Normalised difference vegetation index `(nir - red) / (nir + red)`, -1 to 1.

    Negative reflectance (noise over water) counts as 0; NaN where nothing positive is left.
    """
    red, nir = (np.maximum(np.asarray(v, float), 0) for v in (red, nir))
    total = nir + red
    return np.divide(nir - red, total, out=np.full_like(total, np.nan), where=total > 0)


def jaccard(a, b, valid=None) -> float:
    """`|a and b| / |a or b|` of two bool maps; NaN if both are empty."""
    a, b = (
        np.asarray(m, bool) & (True if valid is None else np.asarray(valid, bool)) for m in (a, b)
    )
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else np.nan


def windowed_fft(band) -> np.ndarray:
    """2-D Fourier transform of one band (y, x), complex: mean removed, Hann window, not finite pixels at the mean."""
    band = np.asarray(band, float)
    good = np.isfinite(band)
    return np.fft.fft2(
        np.where(good, band - _mean(band[good]), 0.0)
        * np.outer(*(np.hanning(n) for n in band.shape))
    )


def ring_means(values):
    """Frequencies, and the means of a (y, x) Fourier plane over rings around frequency 0."""
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in values.shape), indexing="ij"))
    count = min(values.shape) // 2
    ring = np.rint(radius * 2 * count).astype(int)
    keep = (ring >= 1) & (ring <= count)
    weight = np.bincount(ring[keep], minlength=count + 1)[1:]
    total = np.bincount(ring[keep], values[keep], minlength=count + 1)[1:]
    return np.arange(1, count + 1) / (2 * count), total / weight


def radial_power(band):
    """Radially averaged power spectrum of one band (y, x), see `windowed_fft`.

    Returns
    -------
    frequency : (n,) cycles per pixel, 0 to 0.5 without 0.
    power : (n,) mean squared magnitude.
    """
    return ring_means(np.abs(windowed_fft(band)) ** 2)


def radial_power_ratio(band, reference, ratio) -> dict[str, float]:
    """Power of `band` over that of `reference`, both (y, x), in three ranges of frequency; 1 = equally sharp.

    low: below the coarse Nyquist frequency `1 / (2 ratio)`; medium: up to half the fine Nyquist (1/4 cycle per
    pixel); high: above. An image without detail has medium and high near 0.
    """
    frequency, power = radial_power(band)
    _, expected = radial_power(reference)
    # a ring at radius f holds about f cells: weigh by it to get the power of the whole range
    sums = {
        name: [(frequency * p)[inside].sum() for p in (power, expected)]
        for name, inside in frequency_ranges(frequency, ratio).items()
    }
    return {name: float(p / e) if e > 0 else np.nan for name, (p, e) in sums.items()}


def frequency_ranges(frequency, ratio) -> dict[str, np.ndarray]:
    """Which frequencies (n,) lie in the ranges low, medium and high of `radial_power_ratio`, as (n,) bool."""
    edges = {"low": (0, 0.5 / ratio), "medium": (0.5 / ratio, 0.25), "high": (0.25, 0.5)}
    return {name: (frequency > a) & (frequency <= b) for name, (a, b) in edges.items()}


def _same(image, reference):
    x, z = np.asarray(image, float), np.asarray(reference, float)
    if x.ndim != 3 or x.shape != z.shape:
        raise GridError(
            f"metrics compare (band, y, x) images of one shape; got {x.shape} and {z.shape}"
        )
    if not len(x):
        raise BandError("metrics need at least one band")
    return x, z


def _usable(x, z, valid):
    good = np.isfinite(x).all(0) & np.isfinite(z).all(0)
    return good if valid is None else good & np.asarray(valid, bool)


def _pixels(image, reference, valid):
    """(band, pixel) of both, the usable pixels only."""
    x, z = _same(image, reference)
    good = _usable(x, z, valid)
    return x[:, good], z[:, good]


def _mean(values, axis=None):
    """Mean that gives NaN instead of a warning where there is nothing."""
    if values.size:
        return values.mean(axis)
    return (
        np.nan if axis is None else np.full(values.shape[:axis] + values.shape[axis + 1 :], np.nan)
    )


def _blocks(image, reference, valid, block):
    """(band, block, pixel) of both: whole blocks of usable pixels."""
    x, z = _same(image, reference)
    good = _usable(x, z, valid)
    ny, nx = (n // block for n in good.shape)

    def cut(a):
        a = a[..., : ny * block, : nx * block].reshape(*a.shape[:-2], ny, block, nx, block)
        return np.moveaxis(a, -3, -2).reshape(*a.shape[:-4], ny * nx, block * block)

    whole = cut(good).all(-1)
    return cut(x)[:, whole], cut(z)[:, whole]


def _conjugate(a):
    return np.concatenate([a[:1], -a[1:]])


def _hyper(a, b):
    """Cayley-Dickson product along axis 0, whose size is a power of two: (p, q)(r, s) = (pr - s*q, sp + qr*)."""
    if len(a) == 1:
        return a * b
    half = len(a) // 2
    p, q, r, s = a[:half], a[half:], b[:half], b[half:]
    return np.concatenate(
        [_hyper(p, r) - _hyper(_conjugate(s), q), _hyper(s, p) + _hyper(q, _conjugate(r))]
    )
