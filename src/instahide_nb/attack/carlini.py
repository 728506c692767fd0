"""``carlini-v2`` and ``carlini-v1``: the published attack on the InstaHide Challenge, stage by stage.

Carlini et al., "Is Private Learning Possible with Instance Encoding?" (arXiv 2011.05315; IEEE S&P 2021). Every stage
writes a file that the next one reads; ``docs/carlini.md`` says what is as published and what is ours.

==================  =========================================================  =====================
stage (module)      what it does                                               file
==================  =========================================================  =====================
`similarity`        similarity of all pairs of encryptions                     similarity
`carlini_groups`    dense groups, one for each private image                   groups, group_class
`carlini_groups`    similarity of each encryption to samples of each group     second_similarity
`carlini_matching`  two images for each encryption                             pairs
`carlini_gradient`  images by gradient descent with free signs                 gradient
`carlini_colour`    colour curve: ver.2                                        colour
`carlini_cleaning`  final cleaning step: ver.1                                 cleaned
==================  =========================================================  =====================
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.attack import spectral
from instahide_nb.attack.assignment import Slots, read_slots
from instahide_nb.attack.carlini_cleaning import clean, learn_cleaning
from instahide_nb.attack.carlini_colour import colour, learn_colour_curve
from instahide_nb.attack.carlini_gradient import PUSH, free_sign_descent, stretch
from instahide_nb.attack.carlini_groups import Groups, dense_groups, second_similarity
from instahide_nb.attack.carlini_matching import match
from instahide_nb.attack.carlini_simulation import match_groups, simulate
from instahide_nb.attack.least_squares import predict_encryptions
from instahide_nb.attack.perceptron import Perceptron
from instahide_nb.attack.result import AttackResult, on_the_grid
from instahide_nb.attack.similarity import Similarity, find_similarity
from instahide_nb.encryption import pixel_values
from instahide_nb.errors import InputError
from instahide_nb.progress import progress
from instahide_nb.release import Release
from instahide_nb.storage import load_array, make_folder, save_array

__all__ = ["PUBLISHED", "Settings", "attack", "run_published", "run_v1", "run_v2", "run_v2_network"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


_AGAIN = 300  # iterations of a descent that starts from good images; the loss has settled by then


@dataclass(frozen=True)
class Settings:
    """How the stages are done.

    Attributes
    ----------
    similarity : {"energy", "network"} or callable
        See `instahide_nb.attack.similarity`.
    labels : {"groups", "matching"}
        Where labels are used first: when groups grow (ours), or only in the matching (as published).
    matching : {"optimal", "greedy"}
        Minimum-cost matching, or the published code's greedy step.
    start : {"published", "spectral"}
        Where the descent starts: at zero and with a push away from it, or at the spectral solution (ours).
    iterations : int
        Of the gradient descent; 1000 as published.
    cleanings : int
        Rounds of the final cleaning step, with a descent between each two; 0 for ver.2.
    """

    similarity: str | Similarity = "energy"
    labels: str = "groups"
    matching: str = "optimal"
    start: str = "published"
    iterations: int = 1000
    cleanings: int = 0


PUBLISHED = Settings(labels="matching", matching="greedy")
"""Every step as in the published code, but for the similarity and the weights of the colour curve."""


@dataclass
class _Stages:
    """Runs stages one after the other; with a folder, each leaves its array there and the next reads it back."""

    folder: Path | None
    bar: Any
    seconds: dict[str, float] = field(default_factory=dict)
    prefix: str = ""

    def inside(self, name: str) -> _Stages:
        """The same for a sub-folder; times are told together."""
        folder = None if self.folder is None else make_folder(self.folder / name)
        return replace(self, folder=folder, prefix=f"{name}: ")

    def __call__(self, name: str, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        self.bar.set_postfix_str(self.prefix + name.replace("_", " "))
        begin = time.perf_counter()
        array = make()
        if self.folder is not None:
            save_array(self.folder / f"{name}.npy", array)
            array = load_array(self.folder / f"{name}.npy", dtype=array.dtype, shape=array.shape)
        self.bar.update(1)
        key = self.prefix + name
        self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - begin
        return array


@dataclass(frozen=True)
class _Reconstruction:
    """A release, who is in it, and the images so far."""

    size: Float32  # (n, d): absolute values of the encryptions
    slots: Slots
    second: Float32  # (n, groups)
    pair: Int64
    image: Float32  # (groups, h, w, channels)


def _reconstruct(release: Release, public: UInt8, settings: Settings, stage: _Stages) -> _Reconstruction:
    """The first five stages."""
    label = release.label
    slots = read_slots(label, release.info.n_private)
    compare = find_similarity(settings.similarity)
    # Three digits of a similarity are enough, and half the bytes.
    similar = stage("similarity", lambda: compare(release, public).astype(np.float16)).astype(np.float32)
    found: list[Groups] = []

    def members() -> Int64:
        found.append(dense_groups(similar, label, slots, settings.labels))
        return found[0].member

    member = stage("groups", members)
    group_class = stage("group_class", lambda: found[0].image_class)
    groups = Groups(member, found[0].core, group_class)
    second = stage("second_similarity", lambda: second_similarity(similar, groups, label, settings.labels))
    pair = stage("pairs", lambda: match(second, group_class, slots, settings.matching))
    size = np.abs(release.encryption).reshape(len(release.encryption), -1)
    shape = release.encryption.shape[1:]

    def descend() -> Float32:
        first, push = None, PUSH
        if settings.start == "spectral":  # signs are known from the start: nothing to be pushed away from
            first, push = _spectral_start(release, public, size, slots, pair, len(member)), 0.0
        flat = free_sign_descent(
            size,
            pair,
            slots.coefficient,
            len(member),
            start=first,
            iterations=settings.iterations,
            push=push,
        )
        return stretch(flat).reshape(-1, *shape)

    return _Reconstruction(size, slots, second, pair, stage("gradient", descend))


def _descend_again(image: Float32, known: _Reconstruction) -> Float32:
    """Descend from images whose signs are mostly right: neither pushed away from zero nor stretched."""
    flat = free_sign_descent(
        known.size,
        known.pair,
        known.slots.coefficient,
        len(image),
        start=image.reshape(len(image), -1),
        iterations=_AGAIN,
        push=0.0,
    )
    return flat.reshape(image.shape)


def _spectral_start(
    release: Release, public: UInt8, size: Float32, slots: Slots, pair: Int64, n_groups: int
) -> Float32:
    """Images from the squares of the encryptions, float32 (groups, d), with the sign that fits public images."""
    known = np.where(slots.shared[:, None], -1, pair)
    grouped = replace(slots, start=np.array([0, n_groups], np.int64))
    image = spectral.retrieve(release.encryption, grouped, known).reshape(n_groups, -1)
    mean = pixel_values(public).astype(np.float64).sum(axis=0).sum(axis=0).sum(axis=0)
    mean /= len(public) * public.shape[1] * public.shape[2]
    flat_mean = np.broadcast_to(mean, release.encryption.shape[1:]).astype(np.float32).ravel()
    missed = []
    for sign in (np.float32(1), np.float32(-1)):
        rest = size - np.abs(predict_encryptions(sign * image, pair, slots.coefficient, flat_mean))
        missed.append(float((rest * rest).sum(axis=0, dtype=np.float64).sum()))
    return image if missed[0] <= missed[1] else -image


def _check(release: Release, public: UInt8, settings: Settings) -> None:
    info = release.info
    if info.scheme != "cross":
        raise InputError(
            f"method: carlini attacks cross-dataset encryptions; this release is of the scheme {info.scheme!r}"
        )
    if public.dtype != np.uint8 or public.ndim != 4 or public.shape[1:] != release.encryption.shape[1:]:
        raise InputError(
            f"public_source: carlini needs uint8 images of the shape {release.encryption.shape[1:]}, "
            f"not {public.dtype} {public.shape[1:]}"
        )
    if settings.start not in ("published", "spectral"):
        raise InputError(f"start: {settings.start!r} is not known; choose published or spectral")
    find_similarity(settings.similarity)
    if settings.iterations < 1 or settings.cleanings < 0:
        raise InputError(
            f"iterations, cleanings: {settings.iterations}, {settings.cleanings} are too few; give 1, 0 or more"
        )


def _decryption(recovered: Float32, pair: Int64, second: Float32) -> Float32:
    """For each encryption the image of its larger coefficient, or the nearest group's where that is unknown."""
    chosen = np.where(pair[:, 0] >= 0, pair[:, 0], pair[:, 1])
    chosen = np.where(chosen >= 0, chosen, np.argmax(second, axis=1))
    return on_the_grid(recovered)[chosen]


def attack(
    release: Release,
    public: UInt8,
    settings: Settings | None = None,
    *,
    method: str = "carlini-v2",
    workdir: Path | None = None,
) -> AttackResult:
    """Run all stages.

    Parameters
    ----------
    release : Release
    public : uint8 (m, h, w, 3)
        The attacker's own public images, at least twice as many as there are private images.
    settings : Settings, optional
    method : str
        Name to put on the result.
    workdir : Path, optional
        Where the stages leave their files; those of the simulated challenge go to its folder ``simulation``.

    Returns
    -------
    AttackResult
        ``recovered`` has `n_private` images; those for which no group was found are grey.

    Raises
    ------
    InputError
        When the release or the public images do not serve.
    """
    settings = settings or Settings()
    _check(release, public, settings)
    with progress(total=14 + max(0, 6 * settings.cleanings - 4), desc=method, unit="stage") as bar:
        stage = _Stages(None if workdir is None else make_folder(workdir), bar)
        practice = stage.inside("simulation")
        simulation = simulate(release, public)
        known = _reconstruct(simulation.release, public, settings, practice)
        real = _reconstruct(release, public, settings, stage)
        group, place = match_groups(known.pair, simulation.pair, known.slots, len(known.image))
        truth = simulation.private[place]

        def corrected(
            name: str,
            learn: Callable[[Float32, Float32], Perceptron],
            use: Callable[[Float32, Perceptron], Float32],
        ) -> None:
            """Learn a correction on the simulated images, and make it there and on the real ones."""
            learned: list[Perceptron] = []

            def practised() -> Float32:
                learned.append(learn(made[group], truth))
                return use(made, learned[0])

            made, image = images
            images[:] = [practice(name, practised), stage(name, lambda: use(image, learned[0]))]

        images = [known.image, real.image]
        corrected("colour", learn_colour_curve, colour)
        for turn in range(1, settings.cleanings + 1):
            corrected("cleaned" if turn == settings.cleanings else f"cleaned_{turn}", learn_cleaning, clean)
            if turn < settings.cleanings:
                images = [
                    run(f"gradient_{turn + 1}", partial(_descend_again, m, r))
                    for run, m, r in zip((practice, stage), images, (known, real), strict=True)
                ]
                corrected(f"colour_{turn + 1}", learn_colour_curve, colour)
    image = images[1]
    missing = release.info.n_private - len(image)
    details = {
        "settings": {
            "similarity": getattr(settings.similarity, "__name__", settings.similarity),
            "labels": settings.labels,
            "matching": settings.matching,
            "start": settings.start,
            "iterations": settings.iterations,
            "cleanings": settings.cleanings,
        },
        "groups": len(image),
        "groups_known_in_simulation": len(group),
        "slots_assigned": round(int((real.pair >= 0).sum()) / real.pair.size, 4),
    }
    return AttackResult(
        method=method,
        recovered=np.pad(image, ((0, max(0, missing)), (0, 0), (0, 0), (0, 0))),
        assignment=real.pair,
        decryption=_decryption(image, real.pair, real.second),
        complexity="O(E^3)",
        seconds=stage.seconds,
        details=details,
    )


def run_v2(
    release: Release,
    public: UInt8,
    *,
    seed_start: int = 0,
    seed_stop: int = 2**32,
    workdir: Path | None = None,
    similarity: str | Similarity = "energy",
    labels: str = "groups",
    matching: str = "optimal",
    start: str = "published",
) -> AttackResult:
    """``carlini-v2``: the attack with the colour curve.

    Parameters
    ----------
    release : Release
    public : uint8 (m, h, w, 3)
        The attacker's own public images.
    seed_start, seed_stop
        Not used by this attack.
    workdir : Path, optional
        Folder for the files between the stages.
    similarity, labels, matching, start
        See `Settings`.

    Returns
    -------
    AttackResult
    """
    settings = Settings(similarity, labels, matching, start)
    return attack(release, public, settings, method="carlini-v2", workdir=workdir)


def run_v1(
    release: Release,
    public: UInt8,
    *,
    seed_start: int = 0,
    seed_stop: int = 2**32,
    workdir: Path | None = None,
    similarity: str | Similarity = "energy",
    labels: str = "groups",
    matching: str = "optimal",
    start: str = "published",
) -> AttackResult:
    """``carlini-v1``: the attack with the final cleaning step. Parameters as for `run_v2`."""
    settings = Settings(similarity, labels, matching, start, cleanings=2)
    return attack(release, public, settings, method="carlini-v1", workdir=workdir)


def run_v2_network(release: Release, public: UInt8, *, workdir: Path | None = None) -> AttackResult:
    """``carlini-v2`` with a trained network as similarity; needs PyTorch. Parameters as for `run_v2`."""
    settings = Settings(similarity="network")
    return attack(release, public, settings, method="carlini-v2-network", workdir=workdir)


def run_published(release: Release, public: UInt8, *, workdir: Path | None = None) -> AttackResult:
    """``carlini-v2`` with every step as in the published code (`PUBLISHED`), for comparison."""
    return attack(release, public, PUBLISHED, method="carlini-published", workdir=workdir)
