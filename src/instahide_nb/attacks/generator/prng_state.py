"""The `prng-state` attack: signs that one can be sure of are bits of the generator, and some 20,000 give its state.

The Mersenne Twister is linear over GF(2), a mask bit is the lowest bit of one of its words, and where that word stands
in the stream is public. So signs that are known are linear equations in the 19,937 bits of the state
(:mod:`.state_search`), and so are sums of two signs: where neighbours are large, one is sure that their signs are the
same (:mod:`.sign_confidence`). These are tried first, since they need neither labels nor public images nor another
attack; where they do not serve, the signs that `unmask` is surest of do. With the state all masks and pairs are known
(:mod:`.replay`), whether the generator was started from a 32-bit seed or from entropy; where there was a seed,
rewinding finds it, and with it the coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.generator.generator_result import (
    check_epochs,
    coefficients_fit,
    failure,
    find_replay,
    success,
    with_pairs,
)
from instahide_nb.attacks.generator.label_ratios import label_tolerance
from instahide_nb.attacks.generator.replay import Layout
from instahide_nb.attacks.generator.sign_confidence import (
    by_confidence,
    neighbour_confidence,
    sign_confidence,
)
from instahide_nb.attacks.generator.state_search import EQUATIONS, FoundState, find_state
from instahide_nb.attacks.result import AttackResult
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.progress import Stopwatch
from instahide_nb.scheme.mersenne import rewind, seeded_window, step_back

if TYPE_CHECKING:
    from instahide_nb.attacks.unmask.attack import UnmaskResult

__all__ = ["recover_from_neighbours", "recover_state", "run", "sign_errors"]

_METHOD = "prng-state"
_COMPLEXITY = "O(E + 19937^3)"
_RANKED = 1_000_000  # signs that may serve as equations or checks
_SYSTEMS = 4  # of all epochs, each of other signs
_SINGLE_EPOCHS = 3  # epochs tried one by one where their distance is not the expected one
_SLACK = 1 << 21  # words that may have been drawn beside the expected ones

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Hypothesis:
    """Where ranked signs stand in the stream: words are counted from the first word of an epoch."""

    epoch: int
    words: Int64
    ranks: Int64
    attempts: range
    told: str


def _hypotheses(release: Release, ranked: Int64) -> Iterator[_Hypothesis]:
    """What to try in turn.

    First all epochs at their expected distances; then the epochs with the surest signs, one at a time, since within an
    epoch nothing can come between; then all epochs again, with other signs.
    """
    info, layout = release.info, Layout.of(release)
    encryption, value = ranked // layout.size, ranked % layout.size
    words = layout.mask_word(encryption, value, info.n_private)
    everything = np.arange(len(ranked))
    known = info.scheme != "cross" or info.n_public > 0 or layout.epochs == 1
    if known:
        yield _Hypothesis(0, words, everything, range(1), "all epochs")
    epoch = encryption // info.n_private
    last = np.full(layout.epochs, len(ranked), np.int64)  # the rank of each epoch's EQUATIONS-th sign
    for e in range(layout.epochs if layout.epochs > 1 else 0):
        own = np.flatnonzero(epoch == e)
        if len(own) > EQUATIONS:
            last[e] = own[EQUATIONS]
    for e in np.argsort(last, kind="stable")[:_SINGLE_EPOCHS].tolist():
        own = np.flatnonzero(epoch == e)
        if last[e] < len(ranked):
            yield _Hypothesis(e, words[own] - e * layout.epoch, own, range(1), f"epoch {e} alone")
    if known:
        yield _Hypothesis(0, words, everything, range(1, _SYSTEMS), "all epochs")


def recover_state(
    release: Release, signed: npt.NDArray[np.float32], confidence: npt.NDArray[np.float32]
) -> tuple[FoundState, int, str] | None:
    """The state of T from estimated signs.

    Parameters
    ----------
    release : Release
    signed : (n, h, w, 3) float32 array
        Encryptions with their masks lifted, as far as estimated; only the signs are used.
    confidence : (n, h, w, 3) float32 array
        See :func:`.sign_confidence.sign_confidence`.

    Returns
    -------
    (state, epoch, told) or None
        The state before the first word of an epoch, which epoch that is, and in words where the signs came from.
    """
    ranked = by_confidence(confidence, _RANKED)
    bits = ((signed.ravel()[ranked] > 0) == (release.encryption.ravel()[ranked] > 0)).astype(np.uint8)
    return _search(release, ranked, bits)


def recover_from_neighbours(
    release: Release, confidence: npt.NDArray[np.float32]
) -> tuple[FoundState, int, str] | None:
    """The state of T from neighbours that have the same sign under the mask: see :func:`recover_state`.

    Parameters
    ----------
    release : Release
    confidence : (n, h, w - 1, 3) float32 array
        See :func:`.sign_confidence.neighbour_confidence`.
    """
    left, right = _neighbours(confidence)
    sign = release.encryption.ravel() > 0
    return _search(release, left, (sign[left] != sign[right]).astype(np.uint8), differences=True)


def _neighbours(confidence: npt.NDArray[np.float32], count: int = _RANKED) -> tuple[Int64, Int64]:
    """Flat places of both values of the surest pairs."""
    _, _, pairs, channels = confidence.shape
    line, within = np.divmod(by_confidence(confidence, count), pairs * channels)
    left = line * ((pairs + 1) * channels) + within
    return left, left + channels


def _search(
    release: Release, ranked: Int64, bits: npt.NDArray[np.uint8], *, differences: bool = False
) -> tuple[FoundState, int, str] | None:
    for tried in _hypotheses(release, ranked):
        if differences and tried.attempts.start > 0 and release.info.scheme == "cross":
            break  # the signs of `unmask` promise more than other pairs
        state = find_state(tried.words, bits[tried.ranks], attempts=tried.attempts, differences=differences)
        if state is not None:
            return state, tried.epoch, tried.told
    return None


def _start(release: Release, state: FoundState, epoch: int) -> tuple[npt.NDArray[np.uint32], int | None, int]:
    """The window to replay from, the seed where there was one, and the words drawn before the first epoch."""
    expected = epoch * Layout.of(release).epoch
    found = rewind(state.window, limit=expected + _SLACK)
    if found is not None:
        seed, words = found
        return seeded_window(seed), seed, words - expected
    if epoch == 0:
        return state.window, None, 0
    return step_back(state.window, expected + _SLACK), None, _SLACK


def sign_errors(
    release: Release,
    signed: npt.NDArray[np.float32],
    confidence: npt.NDArray[np.float32],
    positive: npt.NDArray[np.bool_],
) -> list[list[int]]:
    """How many of the surest signs were wrong, for growing numbers of them, once the masks are known.

    Returns
    -------
    list of [signs, wrong]
    """
    truth = positive.reshape(signed.shape)
    wrong = ((signed > 0) == (release.encryption > 0)) != truth
    return _error_curve(wrong.ravel(), by_confidence(confidence, confidence.size))


def _neighbour_errors(
    release: Release, confidence: npt.NDArray[np.float32], positive: npt.NDArray[np.bool_]
) -> list[list[int]]:
    """The same for pairs of neighbours."""
    shape = release.encryption.shape
    lifted = (release.encryption > 0) == positive.reshape(shape)
    wrong = lifted[:, :, :-1] != lifted[:, :, 1:]
    return _error_curve(wrong.ravel(), by_confidence(confidence, confidence.size))


def _error_curve(wrong: npt.NDArray[np.bool_], order: Int64) -> list[list[int]]:
    ordered = wrong[order]
    steps = [10**d * m for d in range(3, 9) for m in (1, 2, 5)]
    curve = [[count, int(np.count_nonzero(ordered[:count]))] for count in steps if count <= len(order)]
    return [*curve, [int(wrong.size), int(wrong.sum())]]


def run(
    release: Release,
    public: npt.NDArray[np.uint8],
    *,
    seed_start: int = 0,
    seed_stop: int = 2**32,
    workdir: Path | None = None,
) -> AttackResult:
    """Recover the generator's state and decrypt everything.

    Parameters
    ----------
    release : Release
    public : (m, h, w, 3) uint8 array
        The attacker's own public images.
    seed_start, seed_stop, workdir
        Not used by this attack.

    Returns
    -------
    AttackResult
        ``recovered_generator`` says whether the state was found, `reason` why not.
    """
    watch = Stopwatch()

    def fail(reason: str, details: dict[str, Any]) -> AttackResult:
        return failure(_METHOD, _COMPLEXITY, release, reason, watch, details)

    info = release.info
    if info.scheme == "mixup":
        return fail("Mixup has no mask, so no bits of the generator are seen", {})
    if info.rng != "mt19937":
        return fail(
            f"the release names the generator {info.rng}; it has no state that linear equations give", {}
        )
    if (reason := check_epochs(release)) is not None:
        return fail(reason, {})
    with watch.stage("ranking"):
        confidence = neighbour_confidence(release.encryption)
    with watch.stage("state"):
        found = recover_from_neighbours(release, confidence)
    solved: UnmaskResult | None = None
    if found is None and info.scheme == "cross":
        with watch.stage("unmask"):
            solved = _solve(release, public)
        with watch.stage("ranking"):
            confidence = sign_confidence(solved.signed, solved.predicted, solved.variance)
        with watch.stage("state"):
            found = recover_state(release, solved.signed, confidence)
    if found is None:
        return fail(
            "no state of the Mersenne Twister agrees with the surest signs: another generator, or too many of them "
            "are wrong",
            {"equations": EQUATIONS},
        )
    state, epoch, told = found
    details: dict[str, Any] = {
        "bits_from": "pairs of neighbours" if solved is None else "signs of unmask",
        "bits_used": state.used,
        "bits_corrected": state.corrected,
        "bits_checked": state.checked,
        "bits_agreeing": state.agreeing,
        "bits_of_evidence": int(state.evidence),
        "redraws_of_the_system": state.attempt,
        "state_from": told,
    }
    with watch.stage("replay"):
        window, seed, before = _start(release, state, epoch)
        details |= {"seed": seed, "words_before": before}
        own_seed = seed if seed is not None and _is_of_c(release, seed) else None
        replay, pairs_fit, more = find_replay(release, window, own_seed, aligned=epoch > 0 or before != 0)
    details |= more | {"coefficients_known": own_seed is not None}
    if replay is None:
        return fail("the state was found, but its masks fit no other epoch", details)
    if solved is None:
        details["sign_errors"] = _neighbour_errors(release, confidence, replay.positive)
    else:
        details["sign_errors"] = sign_errors(release, solved.signed, confidence, replay.positive)
    del confidence  # as large as the encryptions
    if not pairs_fit:
        if info.scheme != "cross":
            return fail("the state makes the masks, but its permutations are not the encryptions'", details)
        if solved is None:
            with watch.stage("unmask"):
                solved = _solve(release, public)
        replay = with_pairs(replay, solved.assignment)
        details["pairs_from"] = "unmask"
    return success(_METHOD, _COMPLEXITY, release, public, replay, watch, details)


def _solve(release: Release, public: npt.NDArray[np.uint8]) -> UnmaskResult:
    from instahide_nb.attacks.unmask import attack as unmask

    return unmask.solve(release, public)


def _is_of_c(release: Release, seed: int) -> bool:
    """Whether the seed of T is also that of C, as far as the labels tell."""
    try:
        tolerance, _ = label_tolerance(release.label, release.info.k)
    except InputError:  # rounded too far to find a seed, but enough to confirm one
        tolerance = 0.006
    return coefficients_fit(release, seed, tolerance)
