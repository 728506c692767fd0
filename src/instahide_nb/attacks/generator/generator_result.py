"""From a generator that was found to the result of an attack, and from one that was not to an honest failure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.generator.exact_images import (
    RecoveredImages,
    ordered_pairs,
    recover_images,
    recovered_pixels,
)
from instahide_nb.attacks.generator.label_ratios import labels_agree
from instahide_nb.attacks.generator.replay import (
    SAME_SIGN,
    Layout,
    Replay,
    align,
    image_classes,
    replay_coefficients,
    replay_epochs,
    signs_agree,
)
from instahide_nb.attacks.result import AttackResult, on_the_grid
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.progress import Stopwatch

__all__ = ["check_epochs", "coefficients_fit", "failure", "find_replay", "success", "with_pairs"]

_PAIRS_AGREE = (
    0.99  # share of encryptions whose labels agree with the replayed pairs; labels may be rounded to zero
)


def check_epochs(release: Release) -> str | None:
    """Why nothing can be replayed: the encryptions are not whole epochs of the release's parameters; else None."""
    info, n = release.info, len(release.encryption)
    if n == 0 or n != info.n_private * info.encryptions_per_image:
        return (
            f"{n} encryptions are not {info.encryptions_per_image} epochs of {info.n_private}, "
            "so it is not known what was drawn when"
        )
    return None


def coefficients_fit(release: Release, seed: int, tolerance: float) -> bool:
    """Whether the coefficients that C draws with this seed are those of the labels."""
    info = release.info
    try:
        weight = replay_coefficients(info, seed, info.encryptions_per_image)
    except InputError:  # no row of this generator's meets the constraints
        return False
    return labels_agree(release.label, weight, info.scheme, tolerance) >= _PAIRS_AGREE


def find_replay(
    release: Release, window: npt.NDArray[np.uint32], seed: int | None, *, aligned: bool = False
) -> tuple[Replay | None, bool, dict[str, Any]]:
    """Replay T, at the expected places or where its masks are found.

    Parameters
    ----------
    release : Release
    window : (624,) uint32 array
        T before its first word.
    seed : int or None
        C's seed where it is known.
    aligned : bool
        Skip the expected places.

    Returns
    -------
    replay : Replay or None
        None when the masks fit neither here nor there.
    pairs_fit : bool
        Whether the labels agree with the replayed pairs; they do not where other permutations were drawn.
    details : dict
        What was found on the way, as JSON can hold it.
    """
    info, layout = release.info, Layout.of(release)
    nearly: tuple[Replay, dict[str, Any]] | None = None
    if not aligned and (info.scheme != "cross" or info.n_public > 0):
        replay = replay_epochs(release, window, layout.starts(), seed, info.n_public)
        masks_fit, pairs_fit, details = _fits(release, replay)
        details["extra_words"] = 0
        if masks_fit and pairs_fit:
            return replay, True, details
        if masks_fit:
            nearly = replay, details
    placed = None if nearly else align(release, window)
    if placed is not None and int(placed[0][0]) >= 0 and (np.diff(placed[0]) >= layout.mask).all():
        starts, n_public = placed
        replay = replay_epochs(release, window, starts, seed, n_public)
        masks_fit, pairs_fit, details = _fits(release, replay)
        words = max(n_public - 1, 0) + layout.order + layout.partners + layout.mask
        details |= {"extra_words": int(starts[-1]) - words * (len(starts) - 1), "n_public": n_public}
        if masks_fit:
            return replay, pairs_fit, details
    return (nearly[0], False, nearly[1]) if nearly else (None, False, {})


def _fits(release: Release, replay: Replay) -> tuple[bool, bool, dict[str, Any]]:
    """Whether masks make natural images, and whether pairs agree with the labels."""
    places = 2 if release.info.scheme == "cross" else release.info.k
    _, agreeing = image_classes(release.label, replay.index[:, :places])
    details: dict[str, Any] = {"pairs_agreeing": round(agreeing, 6)}
    if release.info.scheme == "mixup":
        return True, agreeing >= _PAIRS_AGREE, details
    share = signs_agree(release, replay.positive)
    details["least_neighbours_agreeing"] = round(float(share.min()), 6)
    return bool(share.min() > SAME_SIGN), agreeing >= _PAIRS_AGREE, details


def with_pairs(replay: Replay, pair: npt.NDArray[np.int64]) -> Replay:
    """A replay whose masks hold but whose permutations do not: with pairs from elsewhere, without coefficients."""
    index = np.concatenate([pair, np.zeros((len(pair), replay.index.shape[1] - 2), np.int64)], axis=1)
    return Replay(index.astype(np.int32), None, replay.positive)


def success(
    method: str,
    complexity: str,
    release: Release,
    public: npt.NDArray[np.uint8],
    replay: Replay,
    watch: Stopwatch,
    details: dict[str, Any],
    extras: dict[str, Any] | None = None,
) -> AttackResult:
    """Solve for the images and put the result together."""
    shape = release.encryption.shape[1:]
    with watch.stage("images"):
        images: RecoveredImages = recover_images(release, replay, public)
    pixels, pair = recovered_pixels(images, shape), ordered_pairs(images, replay.index)
    details = details | {
        "images_from": images.how,
        "images_proved": int(images.proved.sum()),
        "encryptions_reproduced": round(images.reproduced, 6),
        "public_images": images.public_images,
    }
    positive = replay.positive.reshape(release.encryption.shape)
    lifted = np.where(positive, release.encryption, -release.encryption)
    return AttackResult(
        method=method,
        recovered=pixels,
        assignment=pair,
        decryption=on_the_grid(pixels)[pair[:, 0]],
        complexity=complexity,
        seconds=watch.seconds,
        details=details,
        recovered_generator=True,
        extras={"signed": lifted.astype(np.float32, copy=False)} | (extras or {}),
    )


def failure(
    method: str, complexity: str, release: Release, reason: str, watch: Stopwatch, details: dict[str, Any]
) -> AttackResult:
    """The generator was not found, for the given reason."""
    return AttackResult.not_found(
        method, complexity, reason, shape=release.encryption.shape, seconds=watch.seconds, details=details
    )
