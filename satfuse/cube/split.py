"""Which scenes train, validate and test: by place, never by patch."""

import hashlib
from collections.abc import Iterable, Mapping

from satfuse.errors import CubeError

SPLITS = ("train", "val", "test")
HELD_OUT = 0.15  # share of places for each of val and test
MARGIN_DEG = 0.05  # scenes nearer than this share a place


def places(bboxes: Mapping[str, tuple[float, ...]]) -> dict[str, str]:
    """Name the place of every scene.

    Scenes whose lon/lat boxes touch, directly or through others, share a place.

    Parameters
    ----------
    bboxes : scene id to (west, south, east, north) in degrees.
    """
    place: dict[str, str] = {}
    remaining = sorted(bboxes)
    while remaining:
        group = [remaining.pop(0)]
        for member in group:  # the loop also visits scenes that it adds
            near = [other for other in remaining if _touch(bboxes[member], bboxes[other])]
            group += near
            remaining = [other for other in remaining if other not in near]
        west, south, east, north = bboxes[group[0]]
        name = f"{(west + east) / 2:.2f},{(south + north) / 2:.2f}"
        place |= dict.fromkeys(group, name)
    return place


def _touch(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(a[i] - MARGIN_DEG <= b[i + 2] and b[i] - MARGIN_DEG <= a[i + 2] for i in (0, 1))


def split_by_place(place: Mapping[str, str]) -> dict[str, str]:
    """Split scenes by a hash of their place: about 15 % of the places test, 15 % validate.

    The same places give the same split in any order. With three places or more each split has at
    least one; with fewer, "test" and then "val" stay empty.

    Parameters
    ----------
    place : scene id to place, see `places`.

    Returns
    -------
    Scene id to "train", "val" or "test".
    """
    order = sorted(set(place.values()), key=_uniform)
    below = [sum(_uniform(p) < limit for p in order) for limit in (HELD_OUT, 2 * HELD_OUT)]
    # places from here on are no longer test, and no longer held out
    test_end = min(max(below[0], 1), max(len(order) - 2, 0))
    val_end = min(max(below[1], test_end + 1), len(order) - 1)
    splits = ["test"] * test_end + ["val"] * (val_end - test_end)
    splits += ["train"] * (len(order) - val_end)
    split_of = dict(zip(order, splits, strict=True))
    return {scene: split_of[p] for scene, p in place.items()}


def _uniform(place: str) -> float:
    """Hash of a place, uniform in 0 to 1."""
    return int(hashlib.sha256(place.encode()).hexdigest()[:12], 16) / 16**12


def check_split(split: Mapping[str, str], scenes: Iterable[str]) -> dict[str, str]:
    """Check that a split given by the user names every scene and only known splits.

    Raises
    ------
    CubeError
        A scene without a split, an unknown scene or an unknown split.
    """
    if difference := sorted(set(split) ^ set(scenes)):
        raise CubeError(f"split and scenes differ in {difference}; name every scene once")
    wrong = sorted({s for s in split.values() if s not in SPLITS})
    if wrong:
        raise CubeError(f"unknown split {', '.join(wrong)}; known: {', '.join(SPLITS)}")
    return dict(split)
