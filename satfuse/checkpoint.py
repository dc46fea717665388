"""Checkpoints: a folder with `model.safetensors` and `card.json`. Nothing is ever unpickled."""

import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from satfuse import __version__, model_names, models
from satfuse.errors import BandError, CheckpointError, ConfigError, MissingExtraError
from satfuse.files import replacing
from satfuse.sensors.bands import S2_NAMES, S3_NAMES, wavelengths_nm
from satfuse.strict import from_dict

try:
    import safetensors.torch
except ImportError as error:
    raise MissingExtraError("safetensors", "models") from error
import torch

FORMAT = "satfuse-checkpoint/1"
WEIGHTS = "model.safetensors"
CARD = "card.json"
MAX_BUFFER_SIZE = 256  # values of a buffer that the card repeats; larger ones are only in WEIGHTS
SHIPPED = Path(models.__file__).parent / "weights"  # one checkpoint per model with shipped weights

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Description of a checkpoint; every field is a key of `card.json`.

    `reach` is the halo in coarse pixels (None = the whole image), `normalisation` holds the model's
    small buffers (band means and spreads), `sha256` is that of `model.safetensors` ("" for models
    without weights).
    """

    format: str
    model: str
    options: dict[str, Any]
    guide_bands: tuple[str, ...]
    coarse_bands: tuple[str, ...]
    guide_wavelengths_nm: list[float] | None
    coarse_wavelengths_nm: list[float] | None
    ratio: int
    reach: int | None
    normalisation: dict[str, Any]
    parameters: int
    data: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    sha256: str


def make_card(
    model: models.FusionModel, *, data: dict[str, Any], metrics: dict[str, Any], sha256: str = ""
) -> Card:
    """Card of a model; `data` and `metrics` are plain JSON values."""
    buffers = {
        name: buffer.flatten().tolist()
        for name, buffer in model.named_buffers()
        if buffer.numel() <= MAX_BUFFER_SIZE
    }
    return Card(
        format=FORMAT,
        model=model.name,
        options=model.options,
        guide_bands=model.guide_bands,
        coarse_bands=model.coarse_bands,
        guide_wavelengths_nm=_wavelengths(model.guide_bands),
        coarse_wavelengths_nm=_wavelengths(model.coarse_bands),
        ratio=model.ratio,
        reach=model.reach(model.ratio),
        normalisation=buffers,
        parameters=sum(p.numel() for p in model.parameters()),
        data=data,
        metrics=metrics,
        versions={
            "satfuse": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        sha256=sha256,
    )


def save(model: models.FusionModel, folder: PathLike, card: Mapping[str, dict[str, Any]]) -> Card:
    """Write a checkpoint; the folder appears complete or not at all, an older one is replaced.

    Parameters
    ----------
    model : its weights are written; its bands, options, ratio and reach go onto the card.
    folder : path.
    card : the facts that the model does not know: `{"data": {...}, "metrics": {...}}`, plain JSON
        values.

    Returns
    -------
    The complete card.

    Raises
    ------
    CheckpointError
        `card` has other keys, or the folder cannot be written.
    """
    if set(card) - {"data", "metrics"}:
        raise CheckpointError(
            f"card has keys {sorted(card)}; allowed: data, metrics (the model gives the rest)"
        )
    tensors = {name: t.contiguous().cpu() for name, t in model.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    full = make_card(
        model,
        data=card.get("data", {}),
        metrics=card.get("metrics", {}),
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    content = {WEIGHTS: weights, CARD: json.dumps(asdict(full), indent=1).encode()}
    _write_folder(Path(folder), content)
    return full


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Write small files into a new folder and put it in place by renaming."""
    unique = uuid.uuid4().hex[:8]
    new = folder.with_name(f".{folder.name}.{unique}.new")
    old = folder.with_name(f".{folder.name}.{unique}.old")
    try:
        for name, content in files.items():
            _write(new / name, content)
        if folder.exists():  # a folder cannot be renamed onto one that is not empty
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        raise _not_writable(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made.

    Raises
    ------
    CheckpointError
        The file cannot be written.
    """
    try:
        _write(path, content)
    except OSError as error:
        raise _not_writable(path, error) from error


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as draft:
        draft.write_bytes(content)


def _not_writable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"cannot write {path}: {error}; choose a folder that is writable and has space"
    )


def load(
    folder: PathLike,
    *,
    guide_bands: Sequence[str] | None = None,
    coarse_bands: Sequence[str] | None = None,
) -> tuple[models.FusionModel, Card]:
    """Open a checkpoint after checking its hash; the model is in eval mode on the CPU.

    Parameters
    ----------
    folder : path of the checkpoint.
    guide_bands, coarse_bands : names that the checkpoint must have, in this order, or that the
        model is made for where its weights serve any bands; None = those of the checkpoint.

    Raises
    ------
    CheckpointError
        Missing or damaged files, a wrong hash, an unknown model, or other bands than requested.
    """
    card = read_card(folder)
    return _load(Path(folder), card, guide_bands, coarse_bands), card


def _load(
    folder: Path,
    card: Card,
    guide_bands: Sequence[str] | None,
    coarse_bands: Sequence[str] | None,
) -> models.FusionModel:
    if _serves_any_bands(card):  # then the card's bands are only those it was trained with
        bands: dict[str, Any] = {
            "guide_bands": guide_bands or card.guide_bands,
            "coarse_bands": coarse_bands or card.coarse_bands,
        }
    else:
        _check_bands(folder, "guide", guide_bands, card.guide_bands)
        _check_bands(folder, "coarse", coarse_bands, card.coarse_bands)
        bands = {
            "guide_bands": _names_or_number(card.guide_bands),
            "coarse_bands": _names_or_number(card.coarse_bands),
        }
    weights = _read_weights(folder, card)
    try:
        model = models.create(card.model, **bands, ratio=card.ratio, **card.options)
        model.load_state_dict(safetensors.torch.load(weights))
    except (ConfigError, BandError, RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {folder} does not fit model {card.model!r}: {error}"
        ) from error
    return model.eval()


def _check_bands(
    folder: Path, kind: str, requested: Sequence[str] | None, bands: tuple[str, ...]
) -> None:
    if requested is not None and tuple(requested) != bands:
        raise CheckpointError(
            f"checkpoint {folder} has {kind} bands {', '.join(bands)}; "
            f"requested: {', '.join(requested)}"
        )


def _read_weights(folder: Path, card: Card) -> bytes:
    weights = _read(folder / WEIGHTS)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != card.sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS} has SHA-256 {digest[:12]}..., its card says "
            f"{card.sha256[:12]}...: the weights were changed or damaged; take the checkpoint from "
            "its source again"
        )
    return weights


def read_card(folder: PathLike) -> Card:
    """The card of a checkpoint, without its weights.

    Raises
    ------
    CheckpointError
        No card, or one with missing or unknown keys or wrong values.
    """
    path = Path(folder) / CARD
    try:
        content = json.loads(_read(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no checkpoint card but a {type(content).__name__}")
    if content.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"{path} has format {content['format']!r}; this satfuse reads {FORMAT}"
        )
    try:
        return from_dict(Card, content, str(path))
    except ConfigError as error:
        raise CheckpointError(f"no checkpoint card: {error}") from error


def resolve(
    name_or_folder: PathLike,
    *,
    guide_bands: Sequence[str],
    coarse_bands: Sequence[str],
    ratio: int,
) -> tuple[models.FusionModel, Card]:
    """The model for a scene, from a checkpoint folder or by its name.

    By its name a model is usable where it needs no weights, or has weights in the package. A
    checkpoint that lacks some of the scene's coarse bands is completed (`satfuse.models.complete`).

    Raises
    ------
    CheckpointError
        Neither a checkpoint nor such a name; other guide bands; coarse bands that the scene lacks;
        another ratio where the model allows only its own.
    """
    name = str(name_or_folder)
    kind = models.MODELS.get(name)
    if kind is not None and not kind.needs_weights:
        model = models.create(
            name, guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio
        ).eval()
        return model, make_card(model, data={}, metrics={})
    shipped = kind is not None and (SHIPPED / name).is_dir()
    folder = SHIPPED / name if shipped else Path(name_or_folder)
    if kind is not None and not folder.is_dir():
        raise CheckpointError(
            f"model {name} needs trained weights: give the folder of a checkpoint of it"
        )
    card = read_card(folder)
    # other models are loaded with the coarse bands they have; `complete` adds the others
    model = _load(folder, card, guide_bands, coarse_bands if _serves_any_bands(card) else None)
    if ratio != model.ratio and not model.any_ratio:
        raise CheckpointError(
            f"checkpoint {name_or_folder} was made for ratio {model.ratio}, the scene has {ratio}"
        )
    try:
        return models.complete(model, coarse_bands, ratio).eval(), card
    except BandError as error:
        raise CheckpointError(f"checkpoint {name_or_folder}: {error}") from error


def _serves_any_bands(card: Card) -> bool:
    return card.model in models.MODELS and models.MODELS[card.model].any_bands


def _names_or_number(bands: tuple[str, ...]) -> tuple[str, ...] | int:
    """Names, or their number where the model was made for nameless bands."""
    return bands if _wavelengths(bands) else len(bands)


def _wavelengths(bands: tuple[str, ...]) -> list[float] | None:
    """Central wavelengths in nm; None for bands of no sensor."""
    return wavelengths_nm(bands) if set(bands) <= set(S2_NAMES + S3_NAMES) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"no checkpoint at {path.parent} ({path.name}: {error.strerror}); "
            f"give a folder with {WEIGHTS} and {CARD}, or a model: {model_names.CHOICE}"
        ) from error
