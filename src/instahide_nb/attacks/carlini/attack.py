"""``carlini-v2`` and ``carlini-v1``: the published attack on the InstaHide Challenge, stage by stage.

Carlini et al., "Is Private Learning Possible with Instance Encoding?" (arXiv 2011.05315; IEEE S&P 2021):

1. `edge_similarity` of all pairs of encryptions;
2. `dense_groups` of encryptions, one for each private image, and 3. `second_similarity` of encryptions to groups;
4. `optimal_matching`: two private images for each encryption;
5. `free_sign_descent`: the images;
6. `learn_colour_curve` (the result of ver.2), and 7. `learn_cleaning` (of ver.1).

Stages 1 to 5 run twice: on the release, and on a challenge that the attacker makes of public images. Its private images
are known, so stages 6 and 7 are learned from it. If labels only name classes, coefficients are those of `unmask`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from instahide_nb.attacks.carlini import correction
from instahide_nb.attacks.carlini.descent import free_sign_descent, stretch
from instahide_nb.attacks.carlini.matching import Slots, dense_groups, optimal_matching, read_slots, second_similarity
from instahide_nb.attacks.result import AttackResult, on_the_grid
from instahide_nb.attacks.unmask import edges
from instahide_nb.attacks.unmask.codes import product_table
from instahide_nb.attacks.unmask.constraints import by_law, coefficient_law, known_of, scales_by_law
from instahide_nb.challenge.release import Release
from instahide_nb.core.arrays import Float32, Int64, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.progress import Stopwatch, progress

Similarity = Callable[[Release, UInt8], Float32]

_LEARN = {"colour curve": correction.learn_colour_curve, "cleaning": correction.learn_cleaning}
_AGAIN = 300  # iterations of a descent from good images, which converges sooner


def edge_similarity(release: Release, public: UInt8) -> Float32:
    """Correlation of the whitened edge maps (square roots of edge energies) of all pairs of encryptions.

    The published similarity is a Wide ResNet 28-6, trained for ten GPU hours. This one needs no training and no public
    images. Returns float32 (n, n) in [-1, 1], symmetric, with 1 on the diagonal.
    """
    energies = edges.edges_of(release.encryption, known_of(release), squares=False)
    return edges.similarity(product_table(energies.feature, energies.local))


def with_coefficients(release: Release) -> Release:
    """The release; if its labels only name classes, with coefficients that `unmask` estimates from edges."""
    known, info = known_of(release), release.info
    if known.share is not None:
        return release
    found = edges.first_codes(edges.edges_of(release.encryption, known, squares=True))[0].mixtures
    law = coefficient_law(info)
    share = by_law(found.coefficient * scales_by_law(found, law)[found.assignment], law)
    label = np.zeros(known.present.shape, np.float32)
    np.add.at(label, (np.arange(len(label))[:, None], known.image_class[found.assignment]), share)
    return replace(release, label=label, info=info.changed(labels="coefficients"))


def run_v2(release: Release, public: UInt8) -> AttackResult:
    """``carlini-v2``; see `attack`."""
    return attack(release, public)


def run_v1(release: Release, public: UInt8) -> AttackResult:
    """``carlini-v1``, see `attack`."""
    return attack(release, public, cleaning=True)


def attack(
    release: Release, public: UInt8, *, cleaning: bool = False, similarity: Similarity = edge_similarity
) -> AttackResult:
    """Run all stages, 7 only if `cleaning`; ``recovered`` has `n_private` images, grey ones for missing groups.

    The attacker's own `public` images (m, h, w, 3) are at least twice as many as the private ones.
    ``similarity(release, public)`` returns float32 (n, n). An InputError says that labels or public images do not fit.
    """
    shape = release.encryption.shape[1:]
    if public.dtype != np.uint8 or public.shape[1:] != shape:
        found = f"{public.dtype} {public.shape[1:]}"
        raise InputError(f"public_source: carlini needs uint8 images of the shape {shape}, not {found}")
    method = "carlini-v1" if cleaning else "carlini-v2"
    with progress(total=16 if cleaning else 12, desc=method, unit="stage") as bar:
        watch = Stopwatch(bar=bar)
        with watch.stage("simulation"):
            practice, private, pair = correction.simulate(release, public)
        known, real = (_reconstruct(each, public, similarity, watch) for each in (practice, release))
        group, place = correction.match_groups(known.pair, pair, known.slots, len(known.image))
        truth = private[place]
        made, image = known.image, real.image
        history = {"gradient": image}

        def correct(name: str, stage: str) -> None:
            nonlocal made, image
            with watch.stage(stage):
                better = _LEARN[stage](made[group], truth)
                made, image = better(made), better(image)
            history[name] = image

        correct("colour", "colour curve")
        if cleaning:
            correct("cleaned_1", "cleaning")
            # Most signs are right now, so a descent from here finds contrast and colour too.
            with watch.stage("descent"):
                made, image = known.descend(made), real.descend(image)
            history["gradient_2"] = image
            correct("colour_2", "colour curve")
            correct("cleaned", "cleaning")
    chosen = np.where(real.pair[:, 0] >= 0, real.pair[:, 0], real.pair[:, 1])
    chosen = np.where(chosen >= 0, chosen, np.argmax(real.second, axis=1))
    return AttackResult(
        method=method,
        recovered=np.pad(image, ((0, release.info.n_private - len(image)), (0, 0), (0, 0), (0, 0))),
        assignment=real.pair,
        decryption=on_the_grid(image)[chosen],
        complexity="O(E^3)",
        seconds=watch.seconds,
        details={
            "similarity": getattr(similarity, "__name__", "function"),
            "groups": len(image),
            "groups_known_in_simulation": len(group),
            "slots_assigned": round(int((real.pair >= 0).sum()) / real.pair.size, 4),
        },
        extras={"history": list(history.items())},
    )


@dataclass(frozen=True)
class _Reconstruction:
    """Groups of the encryptions of a release, and the images after stage 5."""

    size: Float32  # (n, d): absolute values of the encryptions
    slots: Slots
    second: Float32  # (n, groups): second similarity
    pair: Int64  # (n, 2): group in each slot, -1 where none was found
    image: Float32  # (groups, h, w, channels)

    def descend(self, image: Float32) -> Float32:
        """Descend from images with mostly right signs, without the push away from zero."""
        flat = image.reshape(len(image), -1)
        flat = free_sign_descent(self.size, self.pair, self.slots.coefficient, flat, iterations=_AGAIN, push=0.0)
        return flat.reshape(image.shape)


def _reconstruct(release: Release, public: UInt8, similarity: Similarity, watch: Stopwatch) -> _Reconstruction:
    """Stages 1 to 5."""
    shape = release.encryption.shape[1:]
    with watch.stage("similarity"):
        slots = read_slots(with_coefficients(release).shown, release.info.n_private)
        # Three digits are enough; the last bits of an inexact similarity do not matter.
        similar = similarity(release, public).astype(np.float16).astype(np.float32)
    with watch.stage("groups"):
        groups, image_class = dense_groups(similar, slots.known)
    with watch.stage("second similarity"):
        second = second_similarity(similar, groups, slots.known.present[:, image_class])
    with watch.stage("matching"):
        pair = optimal_matching(second, image_class, slots)
    size = np.abs(release.encryption).reshape(len(release.encryption), -1)
    with watch.stage("descent"):
        start = np.zeros((len(groups), size.shape[1]), np.float32)
        image = stretch(free_sign_descent(size, pair, slots.coefficient, start))
    return _Reconstruction(size, slots, second, pair, image.reshape(-1, *shape))
