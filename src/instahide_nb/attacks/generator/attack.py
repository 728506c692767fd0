"""`prng-seed` and `prng-state`: decrypt a challenge by finding its random generator.

After Carlini et al., "Is Private Learning Possible with Instance Encoding?" (arXiv 2011.05315), section 6. Whoever
knows the generator can draw permutations, coefficients and masks again. Least squares then gives the images.
`prng-seed` tests all 2^32 seeds against the coefficients in the labels. `prng-state` solves for the state of the mask
generator from mask bits that are almost certain: first from sums of neighbouring bits, then from the signs that
`unmask` infers. If the generator was started from a seed, rewinding the state finds it. Otherwise private coefficients
come from labels, public images or `unmask`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from instahide_nb.attacks.generator import seed_scan, state
from instahide_nb.attacks.generator.images import recover_images
from instahide_nb.attacks.generator.replay import Replay, find_replay, makes_labels
from instahide_nb.attacks.result import AttackResult, on_the_grid
from instahide_nb.attacks.unmask.attack import UnmaskResult, solve
from instahide_nb.challenge.release import Release
from instahide_nb.core.arrays import UInt8
from instahide_nb.core.progress import Stopwatch
from instahide_nb.scheme.encryption import pixel_bytes, pixel_values
from instahide_nb.scheme.mersenne import seeded_window
from instahide_nb.scheme.streams import SECURE_PERMUTATIONS
from instahide_nb.scheme.views import apply_views, draw_views


@dataclass
class _Attempt:
    """One run of an attack on a release, and its result."""

    method: str
    complexity: str
    release: Release
    public: UInt8
    details: dict[str, object] = field(default_factory=dict)
    watch: Stopwatch = field(default_factory=Stopwatch)

    def impossible(self) -> str | None:
        """Why nothing can be replayed, or None."""
        info, n = self.release.info, len(self.release.encryption)
        if info.scheme == "mixup" and self.method == "prng-state":
            return "mixup has no mask, so the encryptions show no bits of the generator"
        if info.rng not in ("mt19937", SECURE_PERMUTATIONS):
            return f"the release names the generator {info.rng}, which has no 32-bit seed and no linear state"
        if n != info.n_private * info.encryptions_per_image:
            return f"{n} encryptions are not {info.encryptions_per_image} epochs of {info.n_private}"
        return None

    def unmask(self) -> UnmaskResult:
        with self.watch.stage("unmask"):
            return solve(self.release, self.public)

    def not_found(self, reason: str) -> AttackResult:
        release, seconds = self.release, self.watch.seconds
        return AttackResult.not_found(
            self.method, self.complexity, reason, release=release, seconds=seconds, details=self.details
        )

    def found(
        self, replay: Replay, pairs_fit: bool, seed: int | None, solved: UnmaskResult | None = None
    ) -> AttackResult:
        """Solve for the images; pairs and coefficients that cannot be replayed come from `unmask`."""
        release, shape, coefficient = self.release, self.release.encryption.shape, None
        info = release.info
        if info.augment != "none":
            if seed is None or not pairs_fit:
                return self.not_found("the masks were found, but not the seed from which views of images are drawn")
            drawn = draw_views(info.augment, seed, info.encryptions_per_image, info.n_private)
            epoch, held = np.arange(len(replay.index)) // info.n_private, replay.index[:, : info.private_per_row]
            replay = replace(replay, view=drawn[epoch[:, None], held])
        if not pairs_fit or (replay.weight is None and release.info.labels != "coefficients"):
            solved = solved or self.unmask()
            replay, coefficient = replay.with_pairs(solved.assignment), solved.coefficient
            self.details["pairs_from"] = "unmask"
        with self.watch.stage("images"):
            images = recover_images(release, replay, self.public, coefficient)
        self.details |= {
            "images_from": images.how,
            "images_proved": int(images.proved.sum()),
            "encryptions_reproduced": round(images.reproduced, 6),
            "public_images": images.public_images,
        }
        pixels, pair = images.pixels(shape[1:]), images.ordered_pairs(replay.index)
        decryption = on_the_grid(pixels)[pair[:, 0]]
        if replay.view is not None:
            first = images.coefficient.argmax(axis=1)
            view = replay.view[np.arange(len(first)), first]
            decryption = pixel_values(apply_views(pixel_bytes(pixels)[pair[:, 0]], view))
        signed = np.where(replay.positive.reshape(shape), release.encryption, -release.encryption)
        return AttackResult(
            method=self.method,
            recovered=pixels,
            assignment=pair,
            decryption=decryption,
            complexity=self.complexity,
            seconds=self.watch.seconds,
            details=self.details,
            recovered_generator=True,
            extras={"signed": signed.astype(np.float32, copy=False)},
        )


def prng_seed(release: Release, public: UInt8, *, seed_start: int = 0, seed_stop: int = 2**32) -> AttackResult:
    """Scan seed_start .. seed_stop - 1 for the seed of the coefficients, and decrypt everything.

    The attacker's `public` images (m, h, w, 3) are rarely needed. If no seed is found, the result says why
    (:meth:`AttackResult.not_found`). Raises InputError if the range is not within 0 .. 2^32, or if labels have fewer
    than three decimals.
    """
    run = _Attempt("prng-seed", "O(2^32 + E)", release, public)
    if (reason := run.impossible()) is not None:
        return run.not_found(reason)
    with run.watch.stage("scan"):
        scanned = seed_scan.find_seed(release, seed_start, seed_stop)
    if scanned is None:
        return run.not_found("no label of the first epoch shows the ratio of two coefficients")
    seed, told = scanned
    run.details |= told
    if seed is None:
        return run.not_found(
            f"no seed in {seed_start} .. {seed_stop - 1} makes these labels: another range, a generator started from "
            "entropy, or coefficients that are not numpy's"
        )
    with run.watch.stage("replay"):
        replay, pairs_fit, told = find_replay(release, seeded_window(seed), seed)
    run.details |= told
    if replay is None:
        return run.not_found("the seed makes the labels, but no masks of its mask generator fit")
    return run.found(replay, pairs_fit, seed)


def prng_state(release: Release, public: UInt8) -> AttackResult:
    """Recover the state of the mask generator, and decrypt everything.

    The attacker's `public` images (m, h, w, 3) are for `unmask`, and for images if not all coefficients are known.
    If no state is found, the result says why (:meth:`AttackResult.not_found`).
    """
    run, solved = _Attempt("prng-state", "O(E + 19937^3)", release, public), None
    if (reason := run.impossible()) is not None:
        return run.not_found(reason)
    with run.watch.stage("ranking"):
        confidence = state.neighbour_confidence(release.encryption)
    with run.watch.stage("state"):
        found = state.state_from_neighbours(release, confidence)
    if found is None:
        solved = run.unmask()
        with run.watch.stage("ranking"):
            confidence = state.sign_confidence(solved.signed, solved.predicted, solved.variance)
        with run.watch.stage("state"):
            found = state.state_from_signs(release, solved.signed, confidence)
    if found is None:
        return run.not_found(
            "no state of the Mersenne Twister agrees with the most certain mask bits: they come from another "
            "generator, or too many of them are wrong"
        )
    run.details |= {
        "bits_from": "pairs of neighbours" if solved is None else "signs of unmask",
        "bits_used": state.EQUATIONS,
        "bits_checked": found.checked,
        "bits_agreeing": found.agreeing,
        "bits_of_evidence": int(found.evidence),
        "redraws_of_the_system": found.attempt,
        "state_from": found.found_in,
    }
    with run.watch.stage("replay"):
        window, seed, before = state.start_of(release, found)
        tolerance = 0.0 if release.label is None else seed_scan.label_tolerance(release.label, release.info.k)[0]
        own = seed if seed is not None and makes_labels(release, seed, tolerance) else None
        replay, pairs_fit, told = find_replay(release, window, own)
    run.details |= {"seed": seed, "words_before": before, **told, "coefficients_known": own is not None}
    if replay is None:
        return run.not_found("the state was found, but its masks fit no other epoch")
    positive = replay.positive.reshape(release.encryption.shape)
    removed = (release.encryption > 0) == positive
    wrong = removed[:, :, :-1] != removed[:, :, 1:] if solved is None else removed != (solved.signed > 0)
    run.details["sign_errors"] = state.error_curve(wrong, confidence)
    del confidence  # as large as the encryptions
    return run.found(replay, pairs_fit, own, solved)
