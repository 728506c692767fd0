"""The `unmask` attack: private images from masked mixtures, without a network and without the generator's bug.

Energy of local differences (`energy`) finds the encryptions of one image (`clusters`, `assignment`); squares give
a first image up to signs (`spectral`); then rounds of: infer the masks (`signs`), solve for the
images (`least_squares`), turn back flipped pixels (`sign_repair`), assign anew (`matched_filter`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.attack import (
    clusters,
    companions,
    energy,
    least_squares,
    matched_filter,
    sign_repair,
    signs,
    spectral,
)
from instahide_nb.attack.assignment import Slots, assign, read_slots
from instahide_nb.attack.result import AttackResult, on_the_grid
from instahide_nb.attack.smoothness import RADIUS, PublicModel, public_model, smoothness
from instahide_nb.errors import InputError
from instahide_nb.progress import progress as progress_bar
from instahide_nb.release import Release

__all__ = ["Settings", "UnmaskResult", "run", "solve"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_TEMPERATURE = np.array([4, 4, 2, 2, 1, 1, 1, 1], np.float32)
_GRAM_RIDGE = 0.05
_SHRINKAGE = 0.5


@dataclass(frozen=True)
class Settings:
    """What the attack does; the defaults are the whole attack, an ablation switches parts off.

    Attributes
    ----------
    rounds : int
        Rounds of signs, images and assignment after the first images, each encryption on its own.
    companion_rounds : int
        Further rounds in which the encryptions of an epoch inform each other.
    ridge : tuple of float
        White noise added to the public covariance in each round (the last one repeats): images are noisy at first.
    coupled, repair, matched, epochs : bool
        Infer the signs of an encryption together; turn back flipped pixels; assign by the matched filter; use the
        epochs, if the rows are in epochs, in assignment and for companions.
    """

    rounds: int = 2
    companion_rounds: int = 6
    ridge: tuple[float, ...] = (0.3,)
    coupled: bool = True
    repair: bool = True
    matched: bool = True
    epochs: bool = True


@dataclass(frozen=True)
class UnmaskResult:
    """Everything that `solve` found.

    Attributes
    ----------
    recovered : float32 (N, h, w, 3)
        Private images in [-1, 1], ordered by class.
    image_class : int64 (N,)
        Class (column of the labels) of each.
    assignment : int64 (n, 2)
        The two private images of each encryption, that of the larger coefficient first.
    coefficient : float32 (n, 2)
        Their coefficients.
    confidence : float32 (n, 2)
        Log-likelihood of each slot's image above the next best.
    signed : float32 (n, h, w, 3)
        Estimate of each encryption with its mask lifted: ``|x| E[sign]``.
    predicted : float32 (n, h, w, 3)
        Mean prediction of each encryption.
    variance : float32 (n,)
        Variance of the encryption about its prediction.
    history : list of float32 (N, h, w, 3)
        The images after each stage, in order of `stages`.
    stages : list of str
    seconds : dict
    details : dict
        JSON-able figures that the attack knows without any secret.
    """

    recovered: Float32
    image_class: Int64
    assignment: Int64
    coefficient: Float32
    confidence: Float32
    signed: Float32
    predicted: Float32
    variance: Float32
    history: list[Float32] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def _planar(image: Float32) -> Float32:
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def _interleaved(image: Float32) -> Float32:
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


@dataclass
class _State:
    """Images and assignments between rounds; images and encryptions are planar (channels, h, w)."""

    slots: Slots
    model: PublicModel
    size: Float32  # (n, channels, h, w)
    assignment: Int64
    coefficient: Float32
    scale: Float32
    image: Float32
    signed: Float32
    score: Float32
    group: Int64 = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    precision: Float64 | None = None
    expected: Float32 | None = None  # residual that the companions predict

    @property
    def mean(self) -> Float32:
        """Mean public image, flat."""
        height, width = self.size.shape[2:]
        return np.repeat(self.model.mean, height * width)

    @property
    def pixel_variance(self) -> np.float32:
        """Variance of a pixel of a public image."""
        own = [self.model.covariance[c, c, 2 * RADIUS, 2 * RADIUS] for c in range(len(self.model.mean))]
        return np.float32(sum(own) / len(own))

    def predict(self) -> Float32:
        """Prediction of each encryption, planar."""
        flat = self.image.reshape(len(self.image), -1)
        made = least_squares.predict_encryptions(flat, self.assignment, self.coefficient, self.mean)
        made = made.reshape(self.size.shape)
        return made if self.expected is None else made + self.expected


def _infer_signs(state: _State, ridge: float, coupled: bool) -> None:
    n = len(state.size)
    prediction = state.predict()
    alone = signs.independent_signs(
        state.size.reshape(n, -1), prediction.reshape(n, -1), state.scale * state.pixel_variance
    ).reshape(state.size.shape)
    if coupled:
        local = smoothness(state.model, *state.size.shape[2:], ridge)
        alone = signs.coupled_signs(state.size, prediction, state.scale, local, _TEMPERATURE, alone)
    state.signed = alone


def _choose_sign(state: _State) -> None:
    """A few rounds of signs and images from the first images and from their negatives; the likelier stays."""
    found: list[tuple[float, Float32]] = []
    n, start = len(state.size), state.image
    for sign in (np.float32(1), np.float32(-1)):
        state.image = sign * start
        for _ in range(3):
            _infer_signs(state, 0.0, coupled=False)
            _fit(state)
        likelihood = signs.log_likelihood(
            state.size.reshape(n, -1), state.predict().reshape(n, -1), state.scale * state.pixel_variance
        )
        found.append((likelihood, state.image))
    state.image = found[0][1] if found[0][0] >= found[1][0] else found[1][1]


def _agreement(first: Float32, second: Float32) -> np.float32:
    """The sign under which two sets of images agree."""
    same = int(np.count_nonzero((first > 0) == (second > 0)))
    return np.float32(1 if 2 * same >= first.size else -1)


def _meet_companions(state: _State) -> None:
    """Learn from the residuals of each epoch what its rows tell about each other."""
    state.expected = None
    residual = state.signed - state.predict()
    local = smoothness(state.model, *state.size.shape[2:], _GRAM_RIDGE)
    shrinkage = _SHRINKAGE * state.group.shape[1] / residual[0].size
    state.precision = companions.row_precision(residual, state.group, local, shrinkage)
    state.expected, scale = companions.predict_residuals(residual, state.precision, state.group)
    state.scale = np.maximum(scale, np.float32(0.003))


def _fit(state: _State) -> None:
    n = len(state.size)
    if state.precision is not None:
        state.image = companions.fit_images(
            state.signed,
            state.precision,
            state.group,
            state.assignment,
            state.coefficient,
            state.model.mean,
            state.slots.n_images,
        )
        return
    state.image = least_squares.fit_images(
        state.signed.reshape(n, -1),
        state.assignment,
        state.coefficient,
        np.float32(1) / state.scale,
        state.mean,
        state.slots.n_images,
    ).reshape(-1, *state.size.shape[1:])


def _repair(state: _State) -> int:
    n, flips = len(state.size), 0
    local = smoothness(state.model, *state.size.shape[2:], 0.1)
    for _ in range(2):
        gain = sign_repair.flip_gain(
            state.size.reshape(n, -1),
            state.image.reshape(len(state.image), -1),
            state.assignment,
            state.coefficient,
            state.scale * state.pixel_variance,
            state.mean,
        )
        state.image, count = sign_repair.repair(
            state.image, gain.reshape(state.image.shape), state.model.mean, local
        )
        flips += count
    return flips


def _assign(state: _State, ridge: float) -> None:
    local = smoothness(state.model, *state.size.shape[2:], ridge)
    signed = state.signed if state.expected is None else state.signed - state.expected
    product, gram = matched_filter.matched_filter(signed, state.image, state.model.mean, local)
    score, _ = matched_filter.pair_scores(state.slots, product, gram, state.scale)
    state.assignment = assign(state.slots, score)
    for _ in range(2):
        score, _ = matched_filter.pair_scores(state.slots, product, gram, state.scale, state.assignment)
        state.assignment = assign(state.slots, score)
    state.score, state.coefficient = matched_filter.pair_scores(
        state.slots, product, gram, state.scale, state.assignment
    )


def _first_assignment(encryption: Float32, slots: Slots) -> tuple[Int64, Float32]:
    feature = energy.features(encryption)
    _, template = clusters.seed_clusters(slots, feature)
    for _ in range(2):
        score = energy.correlation(feature, template)[:, None, :] * slots.coefficient[:, :, None]
        assignment = assign(slots, score)
        template = clusters.templates(slots, assignment, feature)
    return assignment, score


def _check(release: Release, public: npt.NDArray[np.uint8]) -> None:
    info = release.info
    if info.scheme != "cross":
        raise InputError(
            f"method: unmask attacks cross-dataset encryptions; this release is of the scheme {info.scheme!r}"
        )
    height, width = release.encryption.shape[1:3]
    if min(height, width) < 2 * RADIUS + 1:
        raise InputError(f"encryption.npy: images of {height}x{width} are too small for unmask; 7x7 at least")
    if public.ndim != 4 or public.shape[3] != release.encryption.shape[3] or public.dtype != np.uint8:
        raise InputError(
            f"public_source: unmask needs uint8 images (m, h, w, 3), not {public.dtype} {public.shape}"
        )
    if len(public) < 50:
        raise InputError(
            f"n_public: {len(public)} public images are too few for unmask to learn from; 50 at least"
        )
    if info.n_private < 2:
        raise InputError(
            f"release.json: n_private is {info.n_private}; unmask needs two private images or more"
        )


def solve(
    release: Release,
    public: npt.NDArray[np.uint8],
    *,
    settings: Settings | None = None,
    progress: Callable[[str], None] | None = None,
) -> UnmaskResult:
    """Recover the private images of a cross-dataset release.

    Parameters
    ----------
    release : Release
        Encryptions and labels; labels must carry coefficients.
    public : uint8 (m, h, w, 3)
        The attacker's own public images: only their mean colour and autocovariance are used.
    settings : Settings, optional
    progress : callable, optional
        Called with the name of each stage as it begins.

    Returns
    -------
    UnmaskResult

    Raises
    ------
    InputError
        When the release is of another scheme, or its labels carry no coefficients.
    """
    _check(release, public)
    settings = settings or Settings()
    seconds: dict[str, float] = {}
    history: list[Float32] = []
    stages: list[str] = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        if progress is not None:
            progress(name)
        begin = time.perf_counter()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begin

    def remember(name: str) -> None:
        history.append(_interleaved(state.image))
        stages.append(name)

    encryption = np.ascontiguousarray(release.encryption, np.float32)
    slots = read_slots(release.label, release.info.n_private)
    if not settings.epochs:
        slots = replace(slots, epoch=np.full_like(slots.epoch, -1))
    with stage("energy"):
        assignment, score = _first_assignment(encryption, slots)
    with stage("public model"):
        model = public_model(public)
    with stage("spectral"):
        first = spectral.retrieve(encryption, slots, assignment)
    rest = np.float32(1) - slots.coefficient[:, 0] - slots.coefficient[:, 1]
    state = _State(
        slots=slots,
        model=model,
        size=np.abs(_planar(encryption)),
        assignment=np.where(slots.shared[:, None], -1, assignment),
        coefficient=slots.coefficient.copy(),
        scale=(rest * rest * np.float32(0.4) + np.float32(0.005)).astype(np.float32),
        image=_planar(first),
        signed=np.zeros((0,), np.float32),
        score=score,
    )
    remember("spectral")
    with stage("independent signs"):
        _choose_sign(state)
    history[0] *= _agreement(history[0], _interleaved(state.image))
    remember("independent signs")
    if settings.repair:
        with stage("sign repair"):
            _repair(state)
        remember("sign repair")
    state.assignment = assignment
    for number in range(settings.rounds):
        ridge = settings.ridge[min(number, len(settings.ridge) - 1)]
        with stage("coupled signs"):
            _infer_signs(state, ridge, settings.coupled)
        if settings.matched:
            with stage("assignment"):
                _assign(state, ridge)
        with stage("least squares"):
            _fit(state)
        if settings.repair:
            with stage("sign repair"):
                _repair(state)
        remember(f"round {number + 1}")
    if slots.epoch[0] >= 0:
        state.group = np.arange(len(encryption), dtype=np.int64).reshape(-1, slots.n_images)
    for number in range(settings.companion_rounds if len(state.group) else 0):
        ridge = settings.ridge[-1]
        with stage("companions"):
            _meet_companions(state)
        with stage("coupled signs"):
            _infer_signs(state, ridge, settings.coupled)
        with stage("assignment"):
            _assign(state, ridge)
        with stage("least squares"):
            _fit(state)
        remember(f"companions {number + 1}")
    margin = _margin(state)
    details = _details(state, margin, stages)
    return UnmaskResult(
        recovered=_interleaved(state.image),
        image_class=np.repeat(np.arange(len(slots.start) - 1), np.diff(slots.start)),
        assignment=state.assignment,
        coefficient=state.coefficient,
        confidence=margin,
        signed=_interleaved(state.signed),
        predicted=_interleaved(state.predict()),
        variance=(state.scale * state.pixel_variance).astype(np.float32),
        history=history,
        stages=stages,
        seconds=seconds,
        details=details,
    )


def _margin(state: _State) -> Float32:
    """Score of the chosen image of each slot above the best other image of its class."""
    chosen = np.take_along_axis(state.score, state.assignment[:, :, None], axis=2)[:, :, 0]
    other = state.score.copy()
    np.put_along_axis(other, state.assignment[:, :, None], np.float32(-1e30), axis=2)
    number = np.arange(state.slots.n_images)
    for s in range(2):
        image_class = state.slots.image_class[:, s, None]
        outside = (number < state.slots.start[image_class]) | (number >= state.slots.start[image_class + 1])
        other[:, s][outside] = np.float32(-1e30)
    margin: Float32 = np.minimum(chosen - other.max(axis=2), np.float32(1e6))
    return margin


def _details(state: _State, margin: Float32, stages: list[str]) -> dict[str, Any]:
    u = margin / np.float32(2)
    correct = np.float32(0.5) * (np.float32(1) + u / np.sqrt(np.float32(1) + u * u))
    return {
        "stages": stages,
        "images_per_class": np.diff(state.slots.start).tolist(),
        "epochs": bool(state.slots.epoch[0] >= 0),
        "shared_class_encryptions": int(state.slots.shared.sum()),
        "estimated_slot_accuracy": round(float(correct.astype(np.float64).sum() / correct.size), 4),
    }


def decrypt(result: UnmaskResult) -> Float32:
    """For each encryption the private image that the attack is surest of, on the 8-bit grid.

    Returns
    -------
    float32 (n, h, w, 3)
    """
    strength = result.confidence * result.coefficient
    slot = np.argmax(strength, axis=1)
    chosen = np.take_along_axis(result.assignment, slot[:, None], axis=1)[:, 0]
    return on_the_grid(result.recovered)[chosen]


def run(
    release: Release,
    public: npt.NDArray[np.uint8],
    *,
    seed_start: int = 0,
    seed_stop: int = 2**32,
    workdir: Path | None = None,
) -> AttackResult:
    """Attack a release with `solve` and write each encryption's surest private image.

    Parameters
    ----------
    release : Release
    public : uint8 (m, h, w, 3)
        The attacker's own public images.
    seed_start, seed_stop, workdir
        Not used by this attack.

    Returns
    -------
    AttackResult
    """
    settings = Settings()
    with progress_bar(total=6 + 4 * settings.rounds, desc="unmask", unit="stage") as bar:

        def show(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update(1)

        result = solve(release, public, settings=settings, progress=show)
    return AttackResult(
        method="unmask",
        recovered=result.recovered,
        assignment=result.assignment,
        decryption=decrypt(result),
        complexity="O(E)",
        seconds=result.seconds,
        details=result.details,
    )
