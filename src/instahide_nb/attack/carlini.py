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
from instahide_nb.attack.carlini_gradient import free_sign_descent, stretch
from instahide_nb.attack.carlini_groups import Groups, dense_groups, second_similarity
from instahide_nb.attack.carlini_matching import match
from instahide_nb.attack.carlini_simulation import match_groups, simulate
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
    start : {"spectral", "published"}
        Where the descent starts: at the spectral solution (ours), or at zero and with a push away from it.
    iterations : int
        Of the gradient descent; 1000 as published.
    cleanings : int
        Rounds of the final cleaning step; 0 for ver.2.
    """

    similarity: str | Similarity = "energy"
    labels: str = "groups"
    matching: str = "optimal"
    start: str = "spectral"
    iterations: int = 1000
    cleanings: int = 0


PUBLISHED = Settings(labels="matching", matching="greedy", start="published")
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
        if settings.start == "published":
            flat = free_sign_descent(
                size, pair, slots.coefficient, len(member), iterations=settings.iterations
            )
            return stretch(flat).reshape(-1, *shape)
        first = _spectral_start(release, public, slots, pair, len(member))
        return _descend_from(first, size, pair, slots, settings.iterations)

    return _Reconstruction(size, slots, second, pair, stage("gradient", descend))


def _spectral_start(release: Release, public: UInt8, slots: Slots, pair: Int64, n_groups: int) -> Float32:
    mean = pixel_values(public).astype(np.float64).sum(axis=0).sum(axis=0).sum(axis=0)
    mean /= len(public) * public.shape[1] * public.shape[2]
    known = np.where(slots.shared[:, None], -1, pair)
    grouped = replace(slots, start=np.array([0, n_groups], np.int64))
    shape = release.encryption.shape[1:]
    return spectral.retrieve(
        release.encryption, grouped, known, np.broadcast_to(mean, shape).astype(np.float32)
    )


def _descend_from(image: Float32, size: Float32, pair: Int64, slots: Slots, iterations: int) -> Float32:
    flat = free_sign_descent(
        size,
        pair,
        slots.coefficient,
        len(image),
        start=image.reshape(len(image), -1),
        iterations=iterations,
        push=0.0,
    )
    return stretch(flat).reshape(image.shape)


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
    if settings.start not in ("spectral", "published"):
        raise InputError(f'start: {settings.start!r} is not known; choose "spectral" or "published"')
    if settings.iterations < 1 or settings.cleanings < 0:
        raise InputError(
            f"iterations, cleanings: {settings.iterations}, {settings.cleanings}; give 1, 0 or more"
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
    total = 14 + max(0, 6 * settings.cleanings - 4)
    with progress(total=total, desc=method, unit="stage") as bar:
        stage = _Stages(None if workdir is None else make_folder(workdir), bar)
        practice = stage.inside("simulation")
        simulation = simulate(release, public)
        known = _reconstruct(simulation.release, public, settings, practice)
        real = _reconstruct(release, public, settings, stage)
        group, place = match_groups(known.pair, simulation.pair, known.slots, len(known.image))
        truth = simulation.private[place]
        steps = settings.iterations

        runs = ((practice, known), (stage, real))

        def corrected(name: str, images: list[Float32]) -> list[Float32]:
            """The simulated and the real images through one colour curve."""
            curve = learn_colour_curve(images[0][group], truth)
            return [do(name, partial(colour, m, curve)) for (do, _), m in zip(runs, images, strict=True)]

        images = corrected("colour", [known.image, real.image])
        for number in range(1, settings.cleanings + 1):
            network = learn_cleaning(images[0][group], truth)
            name = "cleaned" if number == settings.cleanings else f"cleaned_{number}"
            images = [do(name, partial(clean, m, network)) for (do, _), m in zip(runs, images, strict=True)]
            if number < settings.cleanings:
                images = [
                    do(f"gradient_{number + 1}", partial(_descend_from, m, r.size, r.pair, r.slots, steps))
                    for (do, r), m in zip(runs, images, strict=True)
                ]
                images = corrected(f"colour_{number + 1}", images)
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
    start: str = "spectral",
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
    start: str = "spectral",
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
