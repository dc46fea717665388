"""Which scenes train, validate and test: by place, never by patch."""

import hashlib

from satfuse.errors import CubeError

SPLITS = ("train", "val", "test")
HELD_OUT = 0.15  # share of places for each of val and test
MARGIN_DEG = 0.05  # scenes nearer than this share a place


def places(bboxes: dict[str, tuple[float, float, float, float]]) -> dict[str, str]:
    """Name the place of every scene; scenes whose lon/lat boxes touch, directly or through others, share one.

    Parameters
    ----------
    bboxes : scene id to (west, south, east, north) in degrees.
    """
    place, left = {}, sorted(bboxes)
    while left:
        group = [left.pop(0)]
        for member in group:  # grows while it is walked
            near = [other for other in left if _touch(bboxes[member], bboxes[other])]
            group += near
            left = [other for other in left if other not in near]
        west, south, east, north = bboxes[group[0]]
        name = f"{(west + east) / 2:.2f},{(south + north) / 2:.2f}"
        place |= dict.fromkeys(group, name)
    return place


def _touch(a, b):
    return all(a[i] - MARGIN_DEG <= b[i + 2] and b[i] - MARGIN_DEG <= a[i + 2] for i in (0, 1))


def split_by_place(place: dict[str, str]) -> dict[str, str]:
    """Split scenes by a hash of their place: about 15 % of the places test, 15 % validate.

    The same places give the same split in any order. With three places or more each split has at least one; with
    fewer, "test" and then "val" stay empty.

    Parameters
    ----------
    place : scene id to place, see `places`.
    """
    order = sorted(set(place.values()), key=_uniform)
    below = [sum(_uniform(p) < limit for p in order) for limit in (HELD_OUT, 2 * HELD_OUT)]
    tests = min(max(below[0], 1), max(len(order) - 2, 0))
    held = min(max(below[1], tests + 1), len(order) - 1)
    chosen = {
        p: "test" if i < tests else "val" if i < held else "train" for i, p in enumerate(order)
    }
    return {scene: chosen[p] for scene, p in place.items()}


def _uniform(place):
    return int(hashlib.sha256(place.encode()).hexdigest()[:12], 16) / 16**12


def check_split(split: dict[str, str], scenes) -> dict[str, str]:
    """A split given by hand, after checking that it names every scene and only known splits.

    Raises
    ------
    CubeError
        A scene without a split, an unknown scene or an unknown split.
    """
    if set(split) != set(scenes):
        raise CubeError(
            f"split and scenes differ in {sorted(set(split) ^ set(scenes))}; name every scene once"
        )
    wrong = sorted({s for s in split.values() if s not in SPLITS})
    if wrong:
        raise CubeError(f"unknown split {', '.join(wrong)}; known: {', '.join(SPLITS)}")
    return dict(split)
