"""The `prng-seed` attack: the labels betray the 32-bit seed of the generators, and the seed everything else.

After Carlini et al., "An Attack on InstaHide: Is Private Learning Possible with Instance Encoding?" (arXiv 2011.05315),
section 6, which took 120 CPU hours. Coefficients come from a generator that draws nothing else, so a seed is tested on
a few words (:mod:`.seed_scan`); with the seed known, the other generator's pairs and masks are drawn again
(:mod:`.replay`) and the images follow by least squares (:mod:`.exact_images`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.generator.first_epoch import FirstEpoch, share_kept
from instahide_nb.attacks.generator.generator_result import (
    check_epochs,
    coefficients_fit,
    failure,
    find_replay,
    success,
    with_pairs,
)
from instahide_nb.attacks.generator.label_ratios import label_tolerance, ratio_targets
from instahide_nb.attacks.generator.scan_mark import ScanMark
from instahide_nb.attacks.generator.scan_plan import ScanPlan, plan_scan
from instahide_nb.attacks.generator.seed_scan import ScanOutcome, scan
from instahide_nb.attacks.result import AttackResult
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_array
from instahide_nb.core.progress import Stopwatch
from instahide_nb.scheme.mersenne import seeded_window

__all__ = ["find_seed", "run"]

_METHOD = "prng-seed"
_COMPLEXITY = "O(2^32 + E)"
_SHOWN_ALONE = (
    0.4  # inside: chance that neither coefficient of a pair shares its class with another, at least
)


def _plan(release: Release, tolerance: float) -> tuple[ScanPlan | None, FirstEpoch]:
    """What the first epoch's labels demand of a seed."""
    info = release.info
    places = 2 if info.scheme == "cross" else info.k
    least = info.min_private_sum if info.scheme == "cross" else 0.0
    label = release.label[: info.n_private]
    kept = share_kept(info.k, info.max_coefficient, least) * (1.0 if places == 2 else _SHOWN_ALONE)
    plan = plan_scan(ratio_targets(label, info.k, places, tolerance), info.k, kept)
    return plan, FirstEpoch.from_label(label, places, tolerance, info.k, info.max_coefficient, least)


def find_seed(
    release: Release, seed_start: int = 0, seed_stop: int = 2**32, *, workdir: Path | None = None
) -> tuple[ScanOutcome | None, int | None]:
    """Scan seeds for the lowest that reproduces all labels.

    Parameters
    ----------
    release : Release
    seed_start, seed_stop : int
        The range to scan, within 0 .. 2**32.
    workdir : Path, optional
        Folder for ``scan.json``, which tells how far the scan has come until it ends.

    Returns
    -------
    outcome : ScanOutcome or None
        None when no row of the labels shows a ratio of coefficients that could be compared.
    decimals : int or None
        To how many decimals the labels were rounded.

    Raises
    ------
    InputError
        When the range is none, or labels have fewer than three decimals.
    """
    if not 0 <= seed_start < seed_stop <= 2**32:
        raise InputError(
            f"seed_start, seed_stop: {seed_start} .. {seed_stop} is no range within 0 .. {2**32}"
        )
    tolerance, decimals = label_tolerance(release.label, release.info.k)
    plan, epoch = _plan(release, tolerance)
    if plan is None:
        return None, decimals
    verify = lambda seed: coefficients_fit(release, seed, tolerance)  # noqa: E731
    known = {
        "label": sha256_array(release.label),
        "range": [seed_start, seed_stop],
        "rows": plan.rows.tolist(),
    }
    mark = ScanMark(workdir, known)
    outcome = scan(plan, epoch, seed_start, seed_stop, verify, mark=mark)
    mark.remove()
    return outcome, decimals


def _told(outcome: ScanOutcome, decimals: int | None) -> dict[str, Any]:
    """The scan's funnel for attack.json and the notebook."""
    return {
        "label_decimals": "exact" if decimals is None else decimals,
        "rows_compared": outcome.plan.rows.tolist(),
        "ratios_needed": outcome.plan.needed,
        "chance_to_overlook": round(outcome.plan.overlooked, 6),
        "scanned": [outcome.start, outcome.stop],
        "funnel": {
            "seeds": outcome.stop - outcome.start,
            "survivors": outcome.survivors,
            "fit the first epoch": outcome.fitting,
            "verified": outcome.verified,
        },
        "seed": outcome.seed,
    }


def run(
    release: Release,
    public: npt.NDArray[np.uint8],
    *,
    seed_start: int = 0,
    seed_stop: int = 2**32,
    workdir: Path | None = None,
) -> AttackResult:
    """Find the seed and decrypt everything.

    Parameters
    ----------
    release : Release
    public : (m, h, w, 3) uint8 array
        The attacker's own public images; hardly needed.
    seed_start, seed_stop : int
        Seeds to scan: seed_start .. seed_stop - 1.
    workdir : Path, optional
        The attack's folder. An interrupted scan of the same labels and range goes on from where it stopped.

    Returns
    -------
    AttackResult
        ``recovered_generator`` says whether the seed was found, `reason` why not.

    Raises
    ------
    InputError
        When the range is none, or labels have fewer than three decimals.
    """
    watch = Stopwatch()

    def fail(reason: str, details: dict[str, Any]) -> AttackResult:
        return failure(_METHOD, _COMPLEXITY, release, reason, watch, details)

    info = release.info
    if info.rng != "mt19937":
        return fail(f"the release names the generator {info.rng}; it has no 32-bit seed to scan", {})
    if (reason := check_epochs(release)) is not None:
        return fail(reason, {})
    with watch.stage("scan"):
        outcome, decimals = find_seed(release, seed_start, seed_stop, workdir=workdir)
    if outcome is None:
        return fail("no label of the first epoch shows the ratio of two coefficients", {})
    details = _told(outcome, decimals)
    seed = outcome.seed
    if seed is None:
        return fail(
            f"no seed in {seed_start} .. {seed_stop - 1} makes these labels: another range, a generator started from "
            "entropy, or coefficients that are not numpy's",
            details,
        )
    with watch.stage("replay"):
        replay, pairs_fit, found = find_replay(release, seeded_window(seed), seed)
    details |= found
    if replay is None:
        return fail("the seed makes the labels, but no masks of its second generator fit", details)
    if not pairs_fit:
        if info.scheme != "cross":
            return fail(
                "the seed makes labels and masks, but its permutations are not the encryptions'", details
            )
        from instahide_nb.attacks.unmask.attack import solve

        with watch.stage("unmask"):
            replay = with_pairs(replay, solve(release, public).assignment)
        details["pairs_from"] = "unmask"
    return success(_METHOD, _COMPLEXITY, release, public, replay, watch, details)
