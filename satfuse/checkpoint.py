"""Checkpoints: a folder with `model.safetensors` and `card.json`. Nothing is ever unpickled."""

import hashlib
import json
import os
import platform
import shutil
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from satfuse import __version__, models
from satfuse.errors import BandError, CheckpointError, ConfigError, MissingExtraError
from satfuse.sensors.bands import S2_NAMES, S3_NAMES, wavelengths_nm

try:
    import safetensors.torch
except ImportError as error:
    raise MissingExtraError("safetensors", "models") from error
import torch

FORMAT = "satfuse-checkpoint/1"
WEIGHTS, CARD = "model.safetensors", "card.json"
MOST_NUMBERS = 256  # of a buffer that the card repeats
SHIPPED = (
    Path(models.__file__).parent / "weights"
)  # one checkpoint per model that has weights in the package


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a checkpoint says about itself; every field is a key of `card.json`.

    `reach` is the halo in coarse pixels (None = the whole image), `normalisation` holds the model's small buffers
    (band means and spreads), `sha256` is that of `model.safetensors` ("" for models without weights).
    """

    format: str
    model: str
    options: dict
    guide_bands: tuple[str, ...]
    coarse_bands: tuple[str, ...]
    guide_wavelengths_nm: list[float] | None
    coarse_wavelengths_nm: list[float] | None
    ratio: int
    reach: int | None
    normalisation: dict
    parameters: int
    data: dict
    metrics: dict
    versions: dict
    sha256: str


def describe(model: models.FusionModel, *, data: dict, metrics: dict, sha256: str = "") -> Card:
    """The card of a model."""
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
        normalisation={
            n: b.flatten().tolist() for n, b in model.named_buffers() if b.numel() <= MOST_NUMBERS
        },
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


def save(model: models.FusionModel, folder, card: dict) -> Card:
    """Write a checkpoint; the folder appears complete or not at all, an older one is replaced.

    Parameters
    ----------
    model : its weights are written, its bands, options, ratio and reach go onto the card.
    folder : path.
    card : what the model cannot know: `{"data": {...}, "metrics": {...}}`, plain JSON values.

    Raises
    ------
    CheckpointError
        `card` has other keys, or the folder cannot be written.
    """
    if set(card) - {"data", "metrics"}:
        raise CheckpointError(
            f"card has keys {sorted(card)}; allowed: data, metrics (the model gives the rest)"
        )
    weights = safetensors.torch.save(
        {k: v.contiguous().cpu() for k, v in model.state_dict().items()}
    )
    digest = hashlib.sha256(weights).hexdigest()
    full = describe(
        model, data=card.get("data", {}), metrics=card.get("metrics", {}), sha256=digest
    )
    write_folder(folder, {WEIGHTS: weights, CARD: json.dumps(asdict(full), indent=1).encode()})
    return full


def write_folder(folder, files: dict[str, bytes]) -> None:
    """Write small files into a new folder and put it in place by renaming.

    Raises
    ------
    CheckpointError
        The place cannot be written.
    """
    folder = Path(folder)
    new, old = (
        folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.{kind}") for kind in ("new", "old")
    )
    try:
        new.mkdir(parents=True)
        for name, content in files.items():
            _write(new / name, content)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {folder}: {error}; choose a folder that is writable and has space"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a file and put it in place by one renaming; its folder is made.

    Raises
    ------
    CheckpointError
        The place cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(part, content)
        part.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error}; choose a folder that is writable and has space"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def load(folder, *, guide_bands=None, coarse_bands=None) -> tuple[models.FusionModel, Card]:
    """Open a checkpoint after checking its hash; the model is in eval mode on the CPU.

    Parameters
    ----------
    folder : path of the checkpoint.
    guide_bands, coarse_bands : names that the checkpoint must have, in this order, or that the model is made for
        where its weights serve any bands; None = whatever it has.

    Raises
    ------
    CheckpointError
        Missing or damaged files, a wrong hash, an unknown model, other bands than asked for.
    """
    card = read_card(folder)
    return _load(Path(folder), card, guide_bands, coarse_bands), card


def _load(folder: Path, card: Card, guide_bands, coarse_bands) -> models.FusionModel:
    bands = _bands_of(card)
    if _serves_any_bands(card):
        bands = {
            "guide_bands": guide_bands or card.guide_bands,
            "coarse_bands": coarse_bands or card.coarse_bands,
        }
        guide_bands = coarse_bands = None
    for kind, asked, has in (
        ("guide", guide_bands, card.guide_bands),
        ("coarse", coarse_bands, card.coarse_bands),
    ):
        if asked is not None and tuple(asked) != has:
            raise CheckpointError(
                f"checkpoint {folder} has {kind} bands {', '.join(has)}; asked: {', '.join(asked)}"
            )
    weights = _read(folder / WEIGHTS)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != card.sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS} has SHA-256 {digest[:12]}..., its card says {card.sha256[:12]}...: "
            "the weights were changed or damaged; take the checkpoint from its source again"
        )
    try:
        model = models.create(card.model, **bands, ratio=card.ratio, **card.options)
        model.load_state_dict(safetensors.torch.load(weights))
    except (ConfigError, BandError, RuntimeError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {folder} does not fit model {card.model!r}: {error}"
        ) from error
    return model.eval()


def read_card(folder) -> Card:
    """The card of a checkpoint, without its weights.

    Raises
    ------
    CheckpointError
        No card, or one with missing or unknown keys.
    """
    path = Path(folder) / CARD
    try:
        content = json.loads(_read(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    known = {f.name for f in fields(Card)}
    if not isinstance(content, dict) or set(content) != known:
        wrong = (
            sorted(set(content) ^ known) if isinstance(content, dict) else type(content).__name__
        )
        raise CheckpointError(f"{path} is no checkpoint card: missing or unknown {wrong}")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {content['format']!r}; this satfuse reads {FORMAT}"
        )
    return Card(**content | {k: tuple(content[k]) for k in ("guide_bands", "coarse_bands")})


def resolve(
    name_or_folder, *, guide_bands, coarse_bands, ratio: int
) -> tuple[models.FusionModel, Card]:
    """The model for a scene, from a checkpoint folder or the name of a model that needs no weights or has them shipped.

    A checkpoint that lacks some of the scene's coarse bands is completed (`satfuse.models.complete`).

    Raises
    ------
    CheckpointError
        Neither a checkpoint nor such a name; other guide bands; coarse bands that the scene lacks; another ratio
        where the model allows only its own.
    """
    known = models.MODELS.get(str(name_or_folder))
    if known is not None and not known.needs_weights:
        model = models.create(
            known.name, guide_bands=guide_bands, coarse_bands=coarse_bands, ratio=ratio
        ).eval()
        return model, describe(model, data={}, metrics={})
    folder = SHIPPED / str(name_or_folder)
    if known is None or not folder.is_dir():
        folder = Path(name_or_folder)
    if known is not None and not folder.is_dir():
        raise CheckpointError(
            f"model {known.name} needs trained weights: give the folder of a checkpoint of it"
        )
    card = read_card(folder)
    model = _load(folder, card, guide_bands, coarse_bands if _serves_any_bands(card) else None)
    if ratio != model.ratio and not model.any_ratio:
        raise CheckpointError(
            f"checkpoint {name_or_folder} was made for ratio {model.ratio}, the scene has {ratio}"
        )
    try:
        return models.complete(model, coarse_bands, ratio).eval(), card
    except BandError as error:
        raise CheckpointError(f"checkpoint {name_or_folder}: {error}") from error


def _serves_any_bands(card):
    return card.model in models.MODELS and models.MODELS[card.model].any_bands


def _bands_of(card):
    """Names, or numbers where the model was made with a number of nameless bands."""
    pairs = (("guide_bands", card.guide_bands), ("coarse_bands", card.coarse_bands))
    return {key: names if _wavelengths(names) else len(names) for key, names in pairs}


def _wavelengths(names):
    return wavelengths_nm(names) if set(names) <= set(S2_NAMES + S3_NAMES) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        known = ", ".join(name for name, model in models.MODELS.items() if not model.needs_weights)
        raise CheckpointError(
            f"no checkpoint at {path.parent} ({path.name}: {error.strerror}); give a folder with {WEIGHTS} and {CARD}, "
            f"or a model that needs no weights: {known}"
        ) from error
