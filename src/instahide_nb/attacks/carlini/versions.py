"""``carlini-v2`` and ``carlini-v1``: the published attack on the InstaHide Challenge, stage by stage.

Carlini et al., "Is Private Learning Possible with Instance Encoding?" (arXiv 2011.05315; IEEE S&P 2021). Every stage
writes a file that the next one reads; ``docs/carlini.md`` says what is as published and what is ours.

===============  =====================================================  =====================
stage (module)   what it does                                           file
===============  =====================================================  =====================
`similarity`     similarity of all pairs of encryptions                 similarity
`groups`         dense groups, one for each private image               groups, group_class
`groups`         similarity of each encryption to samples of each group second_similarity
`matching`       two images for each encryption                         pairs
`gradient`       images by gradient descent with free signs             gradient
`colour`         colour curve: ver.2                                    colour
`cleaning`       final cleaning step: ver.1                             cleaned
===============  =====================================================  =====================

`reconstruction` runs the first five, on the release and on a challenge that the attacker makes himself (`simulation`).
What is learned of the difference between images and reconstructions there is then applied here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.carlini.cleaning import clean, learn_cleaning
from instahide_nb.attacks.carlini.colour import colour, learn_colour_curve
from instahide_nb.attacks.carlini.perceptron import Perceptron, as_table, from_table
from instahide_nb.attacks.carlini.reconstruction import descend_again, reconstruct
from instahide_nb.attacks.carlini.settings import Labels, Matching, Settings, Similarity, Start
from instahide_nb.attacks.carlini.similarity import check_similarity, open_similarity
from instahide_nb.attacks.carlini.simulation import match_groups, simulate, upright
from instahide_nb.attacks.carlini.stages import Stages
from instahide_nb.attacks.result import AttackResult, on_the_grid
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder
from instahide_nb.core.progress import progress

__all__ = ["attack", "run_v1", "run_v2"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

_CLEANINGS = 2  # of ver.1


def run_v2(
    release: Release,
    public: UInt8,
    *,
    workdir: Path | None = None,
    similarity: str | Similarity = "energy",
    labels: Labels = "groups",
    matching: Matching = "optimal",
    start: Start = "published",
) -> AttackResult:
    """``carlini-v2``: the attack with the colour curve.

    Parameters
    ----------
    release : Release
    public : uint8 (m, h, w, 3)
        The attacker's own public images.
    workdir : Path, optional
        Folder for the files between the stages.
    similarity, labels, matching, start
        See `Settings`. As a notebook's parameter: ``method = "carlini-v2:matching=greedy,start=spectral"``.

    Returns
    -------
    AttackResult
    """
    return attack(release, public, Settings(similarity, labels, matching, start), workdir=workdir)


def run_v1(
    release: Release,
    public: UInt8,
    *,
    workdir: Path | None = None,
    similarity: str | Similarity = "energy",
    labels: Labels = "groups",
    matching: Matching = "optimal",
    start: Start = "published",
) -> AttackResult:
    """``carlini-v1``: the attack with the final cleaning step. Parameters as for `run_v2`."""
    settings = Settings(similarity, labels, matching, start, cleanings=_CLEANINGS)
    return attack(release, public, settings, workdir=workdir)


def attack(
    release: Release, public: UInt8, settings: Settings | None = None, *, workdir: Path | None = None
) -> AttackResult:
    """Run all stages.

    Parameters
    ----------
    release : Release
    public : uint8 (m, h, w, 3)
        The attacker's own public images, at least twice as many as there are private images.
    settings : Settings, optional
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
    method = "carlini-v1" if settings.cleanings else "carlini-v2"
    with progress(total=_stage_count(settings), desc=method, unit="stage") as bar:
        stage = Stages(None if workdir is None else make_folder(workdir), bar)
        practice = stage.inside("simulation")
        compare = open_similarity(settings.similarity, release.info, public, stage)
        simulation = simulate(release, public)
        known = reconstruct(simulation.release, public, compare, settings, practice)
        real = reconstruct(release, public, compare, settings, stage)
        group, place = match_groups(known.pair, simulation.pair, known.slots, len(known.image))
        truth = simulation.private[place]

        history = {"gradient": real.image}

        def correct(
            made: Float32,
            image: Float32,
            name: str,
            learn: Callable[[Float32, Float32], Perceptron],
            use: Callable[[Float32, Perceptron], Float32],
        ) -> tuple[Float32, Float32]:
            """Learn a correction on the simulated images, and make it there and on the real ones."""
            table = practice(f"{name}_network", lambda: as_table(learn(made[group], truth)))
            network = from_table(table, made.shape[-1])
            history[name] = stage(name, lambda: use(image, network))
            return practice(name, lambda: use(made, network)), history[name]

        made = known.image if settings.start == "published" else upright(known.image, group, truth)
        made, image = correct(made, real.image, "colour", learn_colour_curve, colour)
        for turn in range(1, settings.cleanings + 1):
            if turn > 1:
                made = practice(f"gradient_{turn}", partial(descend_again, made, known))
                image = history[f"gradient_{turn}"] = stage(
                    f"gradient_{turn}", partial(descend_again, image, real)
                )
                made, image = correct(made, image, f"colour_{turn}", learn_colour_curve, colour)
            name = "cleaned" if turn == settings.cleanings else f"cleaned_{turn}"
            made, image = correct(made, image, name, learn_cleaning, clean)
    missing = release.info.n_private - len(image)
    return AttackResult(
        method=method,
        recovered=np.pad(image, ((0, max(0, missing)), (0, 0), (0, 0), (0, 0))),
        assignment=real.pair,
        decryption=_decryption(image, real.pair, real.second),
        complexity="O(E^3)",
        seconds=stage.seconds,
        details={
            "settings": settings.as_dict(),
            "groups": len(image),
            "groups_known_in_simulation": len(group),
            "slots_assigned": round(int((real.pair >= 0).sum()) / real.pair.size, 4),
        },
        extras={"history": list(history.values()), "history_names": list(history)},
    )


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
    check_similarity(settings.similarity)


def _stage_count(settings: Settings) -> int:
    """Six stages twice, three for each correction, two for each further descent, one to train a network."""
    corrections = 2 * settings.cleanings if settings.cleanings else 1
    return 12 + 3 * corrections + 2 * max(0, settings.cleanings - 1) + (settings.similarity == "network")


def _decryption(recovered: Float32, pair: Int64, second: Float32) -> Float32:
    """For each encryption the image of its larger coefficient, or the nearest group's where that is unknown."""
    chosen = np.where(pair[:, 0] >= 0, pair[:, 0], pair[:, 1])
    chosen = np.where(chosen >= 0, chosen, np.argmax(second, axis=1))
    return on_the_grid(recovered)[chosen]
