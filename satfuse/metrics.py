"""Image similarity metrics in plain numpy, computed in float64 from valid pixels only.

Images are (band, y, x); `valid` is (y, x) bool, True = compare here, all finite pixels by default.
A pixel that is not finite in either image is ignored. Per-band scores are (band,) arrays. Without a
valid pixel, scores are NaN.
"""

from typing import Literal, TypeVar, overload

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

from satfuse.arrays import BoolArray, FloatArray
from satfuse.errors import BandError, GridError

SSIM_WINDOW = 11  # pixels along a side, of Wang et al. 2004
Image = npt.ArrayLike  # (band, y, x)
Valid = BoolArray | None  # (y, x), True = compare here
_T = TypeVar("_T", bound=np.generic)


@overload
def rmse(image: Image, reference: Image, valid: Valid = None) -> float: ...
@overload
def rmse(
    image: Image, reference: Image, valid: Valid = None, *, per_band: Literal[True]
) -> FloatArray: ...
@overload
def rmse(
    image: Image, reference: Image, valid: Valid = None, *, per_band: bool
) -> float | FloatArray: ...
def rmse(
    image: Image, reference: Image, valid: Valid = None, *, per_band: bool = False
) -> float | FloatArray:
    """Root mean square difference, over all values or per band.

    In the unit of the images (reflectance).
    """
    x, z = _pixels(image, reference, valid)
    square = (x - z) ** 2
    return np.sqrt(_mean(square, axis=1)) if per_band else float(np.sqrt(_mean(square)))


def bias(image: Image, reference: Image, valid: Valid = None) -> FloatArray:
    """Mean of `image - reference` per band, (band,), in the unit of the images."""
    x, z = _pixels(image, reference, valid)
    return _mean(x - z, axis=1)


def psnr(
    image: Image,
    reference: Image,
    valid: Valid = None,
    *,
    data_range: float = 1.0,
    per_band: bool = False,
) -> FloatArray:
    """Peak signal-to-noise ratio in dB, `20 log10(data_range / RMSE)`; infinite for equal images.

    Returns
    -------
    A scalar over all values, or (band,) with `per_band`.
    """
    error = np.asarray(rmse(image, reference, valid, per_band=per_band))
    with np.errstate(divide="ignore"):
        return 20 * np.log10(data_range / error)


def sam_map_rad(image: Image, reference: Image) -> FloatArray:
    """Spectral angle of every pixel in radians, (y, x).

    `2 atan2(|u - v|, |u + v|)` of the unit vectors: exact for small angles, where arccos loses all
    digits (Kahan 2006). NaN where a spectrum is zero or not finite.
    """
    x, z = _same(image, reference)
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = (a / np.linalg.norm(a, axis=0) for a in (x, z))
        return 2 * np.arctan2(np.linalg.norm(u - v, axis=0), np.linalg.norm(u + v, axis=0))


def sam_rad(image: Image, reference: Image, valid: Valid = None) -> float:
    """Mean spectral angle in radians; pixels with a zero spectrum in either image are ignored."""
    angle = sam_map_rad(image, reference)
    angle = angle if valid is None else angle[np.asarray(valid, bool)]
    return float(_mean(angle[np.isfinite(angle)]))


def sam_deg(image: Image, reference: Image, valid: Valid = None) -> float:
    """Mean spectral angle in degrees, see `sam_rad`."""
    return float(np.rad2deg(sam_rad(image, reference, valid)))


def ergas(
    image: Image,
    reference: Image,
    ratio: float,
    valid: Valid = None,
    *,
    minimum_mean: float = 1e-3,
) -> float:
    """Relative dimensionless global error in synthesis (Wald 2002).

    `100 / ratio * sqrt(mean_k (RMSE_k / mean_k)^2)` over the bands k.

    Parameters
    ----------
    ratio : fine pixels per coarse pixel.
    minimum_mean : bands whose reference mean is below this are ignored; they would dominate the
        score.
    """
    x, z = _pixels(image, reference, valid)
    mean = _mean(z, axis=1)
    error = np.sqrt(_mean((x - z) ** 2, axis=1))
    bright = mean >= minimum_mean
    return float(100 / ratio * np.sqrt(_mean((error[bright] / mean[bright]) ** 2)))


def ssim(image: Image, reference: Image, valid: Valid = None, *, data_range: float) -> FloatArray:
    """Structural similarity per band, (band,).

    Wang et al. 2004 with a Gaussian window of 11 x 11 pixels and sigma 1.5, population covariance,
    K1 0.01 and K2 0.03; by scikit-image. Invalid pixels take the mean of the valid reference in
    both images. Windows centred on them or within 5 pixels of the border are ignored.

    Parameters
    ----------
    data_range : range of the values, in the unit of the images.

    Raises
    ------
    GridError
        An image of fewer than 11 x 11 pixels.
    """
    x, z = _same(image, reference)
    if min(x.shape[1:]) < SSIM_WINDOW:
        raise GridError(
            f"SSIM needs at least 11 x 11 pixels, the image has {x.shape[1]} x {x.shape[2]}"
        )
    usable = _usable(x, z, valid)
    half = SSIM_WINDOW // 2
    inner = np.zeros_like(usable)
    inner[half:-half, half:-half] = usable[half:-half, half:-half]
    scores = np.full(len(x), np.nan)
    for k in range(len(x) if inner.any() else 0):
        fill = z[k][usable].mean()
        a, b = (np.where(usable, band, fill) for band in (x[k], z[k]))
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


def panchromatic_ssim(image: Image, guide: Image) -> float:
    """SSIM of the band means of an image and its guide (Cristille et al. 2024, "SSI").

    The data range is that of the guide. NaN for images of less than 11 x 11 pixels, and for a guide
    without any value. The two may have different bands.
    """
    x, z = (np.asarray(a, float).mean(axis=0, keepdims=True) for a in (image, guide))
    if min(z.shape[1:]) < SSIM_WINDOW or not np.isfinite(z).any():
        return np.nan
    return float(ssim(x, z, data_range=np.nanmax(z) - np.nanmin(z))[0])


def uiqi(image: Image, reference: Image, valid: Valid = None, *, block: int = 32) -> FloatArray:
    """Universal image quality index per band, (band,): mean over blocks (Wang and Bovik 2002).

    Blocks do not overlap. Those with an invalid pixel or beyond the border are ignored. Two equal
    constant blocks score 1.

    Parameters
    ----------
    block : pixels along the side of a block.
    """
    x, z = _blocks(image, reference, valid, block)
    mx, mz = (a.mean(-1) for a in (x, z))
    covariance = ((x - mx[..., None]) * (z - mz[..., None])).mean(-1)
    top = 4 * covariance * mx * mz
    bottom = (x.var(-1) + z.var(-1)) * (mx**2 + mz**2)
    return _mean(_quality(top, bottom, (x == z).all(-1)), axis=1)


def q2n(image: Image, reference: Image, valid: Valid = None, *, block: int = 32) -> float:
    """Q2n of multiband images (Garzelli and Nencini 2009); 1 is best.

    It is UIQI with pixels as 2^n-ary hypercomplex numbers. Bands are padded with zeros to a power
    of two; blocks as in `uiqi`.
    """
    x, z = _blocks(image, reference, valid, block)
    size = 1 << max(len(x) - 1, 0).bit_length()
    x, z = (np.pad(a, ((0, size - len(a)), (0, 0), (0, 0))) for a in (x, z))
    mx, mz = (a.mean(-1) for a in (x, z))
    product = _hyper(x - mx[..., None], _conjugate(z - mz[..., None])).mean(-1)
    energy = ((x - mx[..., None]) ** 2).sum(0).mean(-1) + ((z - mz[..., None]) ** 2).sum(0).mean(-1)
    ax, az = (np.linalg.norm(m, axis=0) for m in (mx, mz))
    top = 4 * np.linalg.norm(product, axis=0) * ax * az
    bottom = energy * (ax**2 + az**2)
    return float(_mean(_quality(top, bottom, (x == z).all(axis=(0, -1)))))


def _quality(top: FloatArray, bottom: FloatArray, equal: BoolArray) -> FloatArray:
    """Index of each block: `top / bottom`, 1 for equal blocks, 0 where undefined."""
    ratio = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    return np.where(equal, 1.0, ratio)


def jensen_shannon(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Jensen-Shannon divergence of two spectra (n,), each scaled to sum 1; 0 to ln 2.

    SciPy's `jensenshannon` is the square root of this divergence. It ignores brightness, so report
    a bias next to it.
    """
    spectra = [np.clip(np.asarray(a, float), 0, None) for a in (p, q)]
    spectra = [a / a.sum() for a in spectra]
    mean = (spectra[0] + spectra[1]) / 2
    return float(sum((a[a > 0] * np.log(a[a > 0] / mean[a > 0])).sum() for a in spectra) / 2)


def cosine(
    image: Image, reference: Image, valid: Valid = None, *, per_band: bool = False
) -> FloatArray:
    """Cosine of the angle between the vectorised images; a scalar, or (band,) with `per_band`.

    It is near 1 for any two reflectance images, so never use it alone.
    """
    x, z = _pixels(image, reference, valid)
    axis = 1 if per_band else None
    with np.errstate(invalid="ignore"):
        return (x * z).sum(axis) / np.sqrt((x * x).sum(axis) * (z * z).sum(axis))


def euclidean(
    image: Image, reference: Image, valid: Valid = None, *, per_band: bool = False
) -> FloatArray:
    """Norm of the difference over all valid pixels; a scalar, or (band,) with `per_band`.

    In the unit of the images; grows with the number of pixels.
    """
    x, z = _pixels(image, reference, valid)
    return np.sqrt(((x - z) ** 2).sum(1 if per_band else None))


def pearson(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Correlation of two arrays over the values that are finite in both; NaN if one is constant."""
    x, z = (np.ravel(v).astype(float) for v in (a, b))
    finite = np.isfinite(x) & np.isfinite(z)
    x, z = (v[finite] - _mean(v[finite]) for v in (x, z))
    norm = np.sqrt((x * x).sum() * (z * z).sum())
    return float((x * z).sum() / norm) if norm > 0 else np.nan


def ndvi(red: npt.ArrayLike, nir: npt.ArrayLike) -> FloatArray:
    """Normalised difference vegetation index `(nir - red) / (nir + red)`, -1 to 1.

    Negative reflectance (noise over water) counts as 0; NaN where both bands are then 0.
    """
    r, n = (np.maximum(np.asarray(v, float), 0) for v in (red, nir))
    total = n + r
    return np.divide(n - r, total, out=np.full_like(total, np.nan), where=total > 0)


def jaccard(a: npt.ArrayLike, b: npt.ArrayLike, valid: Valid = None) -> float:
    """Jaccard index `|a and b| / |a or b|` of two bool maps; NaN if both are empty."""
    usable = True if valid is None else np.asarray(valid, bool)
    x, z = (np.asarray(m, bool) & usable for m in (a, b))
    union = (x | z).sum()
    return float((x & z).sum() / union) if union else np.nan


def windowed_fft(band: npt.ArrayLike) -> npt.NDArray[np.complex128]:
    """2-D Fourier transform (y, x) of one band (y, x).

    The mean is removed, a Hann window applied, and pixels that are not finite take the mean.
    """
    values = np.asarray(band, float)
    finite = np.isfinite(values)
    anomaly = np.where(finite, values - _mean(values[finite]), 0.0)
    return np.fft.fft2(anomaly * np.outer(*(np.hanning(n) for n in values.shape)))


def ring_means(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Means of a (y, x) Fourier plane over rings around frequency 0.

    Returns
    -------
    frequency : (n,) cycles per pixel, 0 to 0.5 without 0.
    mean : (n,) of the values on each ring.
    """
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in values.shape), indexing="ij"))
    count = min(values.shape) // 2
    ring = np.rint(radius * 2 * count).astype(int)  # rings of one frequency step of the short side
    keep = (ring >= 1) & (ring <= count)
    weight = np.bincount(ring[keep], minlength=count + 1)[1:]
    total = np.bincount(ring[keep], values[keep], minlength=count + 1)[1:]
    return np.arange(1, count + 1) / (2 * count), total / weight


def radial_power(band: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Radially averaged power spectrum of one band (y, x); see `windowed_fft`.

    Returns
    -------
    frequency : (n,) cycles per pixel, 0 to 0.5 without 0.
    power : (n,) mean squared magnitude.
    """
    return ring_means(np.abs(windowed_fft(band)) ** 2)


def radial_power_ratio(
    band: npt.ArrayLike, reference: npt.ArrayLike, ratio: float
) -> dict[str, float]:
    """Power of a band over that of its reference, in three ranges of frequency; 1 = equally sharp.

    An image without detail has medium and high near 0.

    Parameters
    ----------
    band, reference : (y, x).
    ratio : fine pixels per coarse pixel.

    Returns
    -------
    low : below the coarse Nyquist frequency `1 / (2 ratio)`.
    medium : up to half of the fine Nyquist frequency (1/4 cycle per pixel).
    high : above.
    """
    frequency, power = radial_power(band)
    _, expected = radial_power(reference)
    # the number of Fourier coefficients on a ring is proportional to its radius, the frequency
    sums = {
        name: [(frequency * p)[inside].sum() for p in (power, expected)]
        for name, inside in frequency_ranges(frequency, ratio).items()
    }
    return {name: float(p / e) if e > 0 else np.nan for name, (p, e) in sums.items()}


def frequency_ranges(frequency: FloatArray, ratio: float) -> dict[str, BoolArray]:
    """Masks (n,) of frequencies (n,) in the ranges of `radial_power_ratio`: low, medium, high."""
    edges = {"low": (0, 0.5 / ratio), "medium": (0.5 / ratio, 0.25), "high": (0.25, 0.5)}
    return {name: (frequency > a) & (frequency <= b) for name, (a, b) in edges.items()}


def _same(image: Image, reference: Image) -> tuple[FloatArray, FloatArray]:
    """Both images as float64, after checking that their shapes agree."""
    x, z = (np.asarray(a, float) for a in (image, reference))
    if x.ndim != 3 or x.shape != z.shape:
        raise GridError(
            f"metrics compare (band, y, x) images of one shape; got {x.shape} and {z.shape}"
        )
    if not len(x):
        raise BandError("metrics need at least one band")
    return x, z


def _usable(x: FloatArray, z: FloatArray, valid: Valid) -> BoolArray:
    finite = np.isfinite(x).all(0) & np.isfinite(z).all(0)
    return np.asarray(finite if valid is None else finite & np.asarray(valid, bool))


def _pixels(image: Image, reference: Image, valid: Valid) -> tuple[FloatArray, FloatArray]:
    """(band, pixel) of both images, the usable pixels only."""
    x, z = _same(image, reference)
    usable = _usable(x, z, valid)
    return x[:, usable], z[:, usable]


def _mean(values: FloatArray, axis: int | None = None) -> FloatArray:
    """Mean, NaN without a warning where there are no values; a scalar without `axis`."""
    if values.size:
        return values.mean(axis)
    shape = () if axis is None else values.shape[:axis] + values.shape[axis + 1 :]
    return np.full(shape, np.nan)


def _blocks(
    image: Image, reference: Image, valid: Valid, block: int
) -> tuple[FloatArray, FloatArray]:
    """(band, block, pixel) of both images: whole blocks of usable pixels."""
    x, z = _same(image, reference)
    usable = _usable(x, z, valid)
    whole = _cut(usable, block).all(-1)
    return _cut(x, block)[:, whole], _cut(z, block)[:, whole]


def _cut(image: npt.NDArray[_T], block: int) -> npt.NDArray[_T]:
    """Cut (..., y, x) into (..., block, pixel); parts of blocks at the border are dropped."""
    ny, nx = (n // block for n in image.shape[-2:])
    whole = image[..., : ny * block, : nx * block]
    blocks = whole.reshape(*image.shape[:-2], ny, block, nx, block)
    return np.moveaxis(blocks, -3, -2).reshape(*image.shape[:-2], ny * nx, block * block)


def _conjugate(a: FloatArray) -> FloatArray:
    """Conjugate of hypercomplex numbers, whose components are along axis 0."""
    return np.concatenate([a[:1], -a[1:]])


def _hyper(a: FloatArray, b: FloatArray) -> FloatArray:
    """Cayley-Dickson product of hypercomplex numbers: (p, q)(r, s) = (pr - s*q, sp + qr*).

    Their components are along axis 0, whose size is a power of two.
    """
    if len(a) == 1:
        return a * b
    p, q = np.split(a, 2)
    r, s = np.split(b, 2)
    return np.concatenate(
        [_hyper(p, r) - _hyper(_conjugate(s), q), _hyper(s, p) + _hyper(q, _conjugate(r))]
    )
