"""The `unmask` attack: private images from masked mixtures, without a network and without the generator's bug.

Energies of local differences (`energy`) find the encryptions of one image (`clusters`, `textures`, `assignment`);
squares give first images up to one sign (`spectral`), which colours tell (`negatives`). Then come rounds of: infer the
masks (`signs`), solve for the images (`least_squares`), turn back flipped pixels (`sign_repair`), assign anew
(`matched_filter`); and more rounds in which encryptions that share public images inform each other: those of an epoch
(`companions`), or, where there are no epochs, or long ones, and at k = 3, any that correlate (`found_companions`).
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

from instahide_nb.attacks.result import AttackResult, on_the_grid
from instahide_nb.attacks.unmask import clusters, energy, spectral
from instahide_nb.attacks.unmask.assignment import read_slots
from instahide_nb.attacks.unmask.negatives import colour_axis
from instahide_nb.attacks.unmask.rounds import (
    State,
    agreement,
    assign_images,
    choose_sign,
    fit_images,
    infer_signs,
    interleaved,
    margin,
    measure_residuals,
    meet_companions,
    planar,
    prior_scale,
    repair_signs,
)
from instahide_nb.attacks.unmask.smoothness import RADIUS, public_model
from instahide_nb.attacks.unmask.textures import Scene, explain, fit_textures, scene, texture_filter
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.progress import progress as progress_bar

__all__ = ["Settings", "UnmaskResult", "decrypt", "run", "solve"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_RIDGE = 0.3  # white noise added to the public covariance, as a share of a pixel's variance
_MORE_ROUNDS = 2  # where there are no companions
_VALUES_PER_ROW = 15  # of an image, for each row of an epoch; with fewer, companions are found one by one


@dataclass(frozen=True)
class Settings:
    """What the attack does; the defaults are the whole attack, an ablation switches parts off.

    Attributes
    ----------
    rounds : int
        Rounds of signs, images and assignment after the first images, each encryption on its own; two more at
        k = 2, where no companions follow.
    companion_rounds : int
        Further rounds in which encryptions that share public images inform each other.
    coupled, repair, epochs : bool
        Infer the signs of an encryption together; turn back flipped pixels; use the epochs, if the rows are in epochs,
        in assignment and, from k = 4 on and up to 204 private images of 32 x 32, to know who is whose companion.
    whitened, left_out : bool
        Whiten the energies; compare each encryption with textures and images as they would be without it.
    """

    rounds: int = 2
    companion_rounds: int = 6
    coupled: bool = True
    repair: bool = True
    epochs: bool = True
    whitened: bool = True
    left_out: bool = True


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
        The attacker's own public images: their mean colours, patch by patch, and their autocovariance are used.
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
        history.append(interleaved(state.image))
        stages.append(name)

    encryption = np.ascontiguousarray(release.encryption, np.float32)
    slots = read_slots(release.label, release.info.n_private)
    if not settings.epochs:
        slots = replace(slots, epoch=np.full_like(slots.epoch, -1))
    with stage("energy"):
        feature = energy.planes(energy.features(encryption), *encryption.shape[1:3])
        local = texture_filter(feature) if settings.whitened else texture_filter(feature, ridge=1e6)
        energies = replace(scene(slots, feature, local), left_out=settings.left_out)
        begun = clusters.first_assignment(energies)
        assignment = begun.assignment
    with stage("public model"):
        model = public_model(public)
    with stage("spectral"):
        first = spectral.retrieve(encryption, slots, assignment)
    state = State(
        slots=slots,
        model=model,
        size=np.abs(planar(encryption)),
        assignment=np.where(slots.shared[:, None], -1, assignment),
        coefficient=slots.coefficient.copy(),
        scale=prior_scale(slots.coefficient),
        image=planar(first),
        signed=np.zeros((0,), np.float32),
        score=begun.score,
    )
    remember("spectral")
    with stage("independent signs"):
        photographs = choose_sign(state, colour_axis(public))
    history[0] *= agreement(history[0], interleaved(state.image))
    remember("independent signs")
    if settings.repair:
        with stage("sign repair"):
            repair_signs(state)
        remember("sign repair")
    state.assignment = assignment
    # at k = 2 there is no public image to share, and residuals are no more than errors of the fit; at k = 3 each is in
    # one row of an epoch, and others that hold it are in other epochs; and the covariance of the rows of an epoch is
    # too uncertain to be inverted if they are many
    accompanied = release.info.k > 2
    enough = encryption[0].size >= _VALUES_PER_ROW * slots.n_images
    in_epochs = bool(slots.epoch[0] >= 0) and release.info.k > 3 and enough
    for number in range(settings.rounds if accompanied else settings.rounds + _MORE_ROUNDS):
        with stage("coupled signs"):
            infer_signs(state, _RIDGE, settings.coupled)
        with stage("assignment"):
            assign_images(state, _RIDGE, settings.left_out)
        with stage("least squares"):
            fit_images(state)
            measure_residuals(state)
        if settings.repair:
            with stage("sign repair"):
                repair_signs(state)
        remember(f"round {number + 1}")
    if in_epochs:
        state.group = np.arange(len(encryption), dtype=np.int64).reshape(-1, slots.n_images)
    for number in range(settings.companion_rounds if accompanied else 0):
        with stage("companions"):
            meet_companions(state)
        with stage("coupled signs"):
            infer_signs(state, _RIDGE, settings.coupled)
        with stage("assignment"):
            assign_images(state, _RIDGE, settings.left_out)
        with stage("least squares"):
            fit_images(state)
        remember(f"companions {number + 1}")
    confidence = margin(state)
    details = _details(state, confidence, stages)
    details["rather_photographs_than_negatives"] = photographs
    with stage("second opinion"):
        details["agreement_with_textures"] = second_opinion(energies, state.assignment)
    return UnmaskResult(
        recovered=interleaved(state.image),
        image_class=np.repeat(np.arange(len(slots.start) - 1), np.diff(slots.start)),
        assignment=state.assignment,
        coefficient=state.coefficient,
        confidence=confidence,
        signed=interleaved(state.signed),
        predicted=interleaved(state.predict()),
        variance=(state.scale * state.pixel_variance).astype(np.float32),
        history=history,
        stages=stages,
        seconds=seconds,
        details=details,
    )


def _details(state: State, confidence: Float32, stages: list[str]) -> dict[str, Any]:
    u = confidence / np.float32(2)
    correct = np.float32(0.5) * (np.float32(1) + u / np.sqrt(np.float32(1) + u * u))
    return {
        "stages": stages,
        "images_per_class": np.diff(state.slots.start).tolist(),
        "epochs": bool(state.slots.epoch[0] >= 0),
        "shared_class_encryptions": int(state.slots.shared.sum()),
        "estimated_slot_accuracy": round(float(correct.astype(np.float64).sum() / correct.size), 4),
    }


def second_opinion(scene: Scene, assignment: Int64) -> float:
    """Share of slots to which the energies alone, which know no sign, give the image that they hold.

    The likelihood behind `estimated_slot_accuracy` trusts the signs that follow from the images it judges.
    Textures are fitted to the final assignment, and each encryption is compared with them as they would be without it.
    """
    again = explain(scene, fit_textures(scene.feature, scene.slots, assignment), times=1)
    known = ~scene.slots.shared
    same = int(np.count_nonzero(again.assignment[known] == assignment[known]))
    return round(same / max(int(known.sum()) * 2, 1), 4)


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
    with progress_bar(
        total=6 + 4 * (settings.rounds + settings.companion_rounds), desc="unmask", unit="stage"
    ) as bar:

        def show(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update(1)

        result = solve(release, public, settings=settings, progress=show)
        bar.total = bar.n  # without companions there are fewer stages
    return AttackResult(
        method="unmask",
        recovered=result.recovered,
        assignment=result.assignment,
        decryption=decrypt(result),
        complexity="O(E)",
        seconds=result.seconds,
        details=result.details,
        extras={"signed": result.signed, "history": result.history},
    )
