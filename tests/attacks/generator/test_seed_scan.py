"""The scan: numpy's draws as it assumes them, and the right seed among many."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_challenge import make

from instahide_nb.attacks.generator import seed_scan
from instahide_nb.attacks.generator.first_epoch import FirstEpoch, epoch_fits, legacy_normals, share_kept
from instahide_nb.attacks.generator.label_ratios import label_tolerance, ratio_targets
from instahide_nb.attacks.generator.prng_seed import find_seed
from instahide_nb.attacks.generator.scan_mark import Progress, ScanMark
from instahide_nb.attacks.generator.scan_plan import plan_scan
from instahide_nb.attacks.generator.seed_scan import LANES, scan
from instahide_nb.core.files import read_json
from instahide_nb.scheme.encryption import class_coefficients, draw_coefficients, integer_weights
from instahide_nb.scheme.streams import open_stream

SEEDS = st.integers(0, 2**32 - 1)


def words_of(seed: int, count: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 2**32, size=count, dtype=np.uint32)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_a_polar_attempt_takes_four_words_and_gives_the_second_coordinate_first(seed):
    """Facts one and two: which words make which coordinate, and in what order the two numbers are handed out."""
    word = words_of(seed, 400).astype(np.float64)
    numbers = np.random.RandomState(seed).normal(size=10)
    made: list[float] = []
    for attempt in range(100):
        w0, w1, w2, w3 = word[4 * attempt : 4 * attempt + 4]
        x1 = 2 * ((w0 // 32) * 2**26 + w1 // 64) / 2**53 - 1
        x2 = 2 * ((w2 // 32) * 2**26 + w3 // 64) / 2**53 - 1
        r2 = x1 * x1 + x2 * x2
        if r2 < 1:
            f = math.sqrt(-2 * math.log(r2) / r2)
            made += [f * x2, f * x1]
    np.testing.assert_allclose(made[:10], numbers, rtol=1e-12)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_seeding_is_init_genrand(seed):
    """Fact three: `RandomState(int)` starts from init_genrand of that number, nothing drawn."""
    state = [seed]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ (state[-1] >> 30)) + i) % 2**32)
    _, key, position, has_kept, _ = np.random.RandomState(seed).get_state()
    assert key.tolist() == state
    assert (position, has_kept) == (624, 0)


@pytest.mark.parametrize("k", [3, 5, 6])
def test_a_redraw_goes_on_with_the_number_that_was_kept(k):
    """Fact four: the second of a pair outlives the call, and a row of the array is k numbers in a row."""
    at_once = np.random.RandomState(5).normal(size=11 * k)
    generator = np.random.RandomState(5)
    rows = [generator.normal(size=(7, k)), *(generator.normal(size=k) for _ in range(4))]
    np.testing.assert_array_equal(np.concatenate([r.ravel() for r in rows]), at_once)


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_normals_are_numpys(seed):
    np.testing.assert_allclose(
        legacy_normals(seed, 700), np.random.RandomState(seed).normal(size=700), rtol=1e-12
    )


def test_share_of_rows_that_are_kept():
    rows = np.abs(np.random.default_rng(0).normal(size=(40_000, 6)))
    rows /= rows.sum(axis=1, keepdims=True)
    kept = ((rows.max(axis=1) <= 0.65) & (rows[:, :2].sum(axis=1) >= 0.3)).mean()
    assert share_kept(6, 0.65, 0.3) == pytest.approx(kept, abs=0.01)


def first_labels(seed: int, k: int, places: int, decimals: int | None) -> np.ndarray:
    stream = open_stream("mt19937", seed=seed, key="", states=None)
    weight = integer_weights(draw_coefficients(stream, 100, k, min_private_sum=0.3 if places == 2 else 0.0))
    rng = np.random.default_rng(seed)
    index = np.stack([rng.permutation(100) for _ in range(places)], axis=1).astype(np.int32)
    label = class_coefficients(weight[:, :places], index, np.arange(100) % 10, 10)
    return label if decimals is None else np.round(label, decimals).astype(np.float32)


CASES = [
    (6, 2, None),
    (6, 2, 4),
    (6, 2, 3),
    (6, 6, None),
    (4, 2, None),
    (5, 2, None),
    (3, 2, None),
    (2, 2, None),
]


@pytest.mark.parametrize(("k", "places", "decimals"), CASES)
def test_right_seed_survives_as_often_as_planned_and_wrong_ones_hardly(k, places, decimals):
    least = 0.3 if places == 2 else 0.0
    kept = share_kept(k, 0.65, least) * (1.0 if places == 2 else 0.4)
    survived, others, seen, overlooked = 0, 0, 0, 0.0
    seeds = range(7_000, 7_150)
    for seed in seeds:
        label = first_labels(seed, k, places, decimals)
        tolerance, _ = label_tolerance(label, k)
        plan = plan_scan(ratio_targets(label, k, places, tolerance), k, kept)
        assert plan is not None
        epoch = FirstEpoch.from_label(label, places, tolerance, k, 0.65, least)
        assert epoch_fits(epoch, np.arange(seed - 5, seed + 6)).nonzero()[0].tolist() == [5]
        overlooked += plan.overlooked
        survivors, fitting = seed_scan._look(plan, epoch, seed - 2_000, seed + 2_000)
        assert fitting in ([], [seed])
        survived += len(fitting)
        others += survivors - len(fitting)
        seen += 4_000
    assert len(seeds) - survived <= overlooked + 4 * math.sqrt(overlooked + 1)
    assert others / seen < 6e-3


def test_scan_returns_the_lowest_verified_seed_whatever_the_threads():
    label = first_labels(300_123, 6, 2, None)
    tolerance, _ = label_tolerance(label, 6)
    plan = plan_scan(ratio_targets(label, 6, 2, tolerance), 6, 0.56)
    assert plan is not None
    epoch = FirstEpoch.from_label(label, 2, tolerance, 6, 0.65, 0.3)
    outcomes = [scan(plan, epoch, 0, 400_000, lambda seed: True, threads=t) for t in (1, 2, 3)]
    assert {(o.seed, o.stop, o.survivors, o.fitting, o.verified) for o in outcomes} == {
        (300_123, 400_000, outcomes[0].survivors, 1, 1)
    }
    refused = scan(plan, epoch, 0, 400_000, lambda seed: False, threads=1)
    assert (refused.seed, refused.fitting, refused.verified) == (None, 1, 0)


@pytest.mark.parametrize(
    ("start", "stop", "found"), [(77, 78, True), (0, 78, True), (0, 77, False), (78, 900, False)]
)
def test_ends_of_the_range_are_exact(start, stop, found):
    label = first_labels(77, 6, 2, None)
    tolerance, _ = label_tolerance(label, 6)
    plan = plan_scan(ratio_targets(label, 6, 2, tolerance), 6, 0.56)
    assert plan is not None
    epoch = FirstEpoch.from_label(label, 2, tolerance, 6, 0.65, 0.3)
    assert (scan(plan, epoch, start, stop, lambda seed: True).seed == 77) == found


def test_last_seeds_are_scanned_without_running_over():
    """A group of seeds that would go past 2**32 finds what is in the range and nothing twice."""
    seed = 2**32 - 3
    label = first_labels(seed, 6, 2, None)
    tolerance, _ = label_tolerance(label, 6)
    plan = plan_scan(ratio_targets(label, 6, 2, tolerance), 6, 0.56)
    assert plan is not None
    epoch = FirstEpoch.from_label(label, 2, tolerance, 6, 0.65, 0.3)
    outcome = scan(plan, epoch, 2**32 - 1 - LANES, 2**32, lambda found: True)
    assert (outcome.seed, outcome.fitting) == (seed, 1)


def test_a_scan_goes_on_where_another_stopped():
    made = make(seed=50_000)
    first, _ = find_seed(made.release, 0, 40_000)
    assert first is not None
    assert (first.seed, first.stop) == (None, 40_000)
    second, _ = find_seed(made.release, first.stop, 60_000)
    assert second is not None
    assert second.seed == 50_000


def test_no_plan_without_ratios():
    """Labels of one class show sums only."""
    label = np.zeros((50, 3), np.float32)
    label[:, 1] = np.linspace(0.3, 0.6, 50)
    assert plan_scan(ratio_targets(label, 6, 2, 1e-6), 6, 0.56) is None


def test_an_interrupted_scan_says_where_to_go_on(monkeypatch, capsys):
    label = first_labels(77, 6, 2, None)
    tolerance, _ = label_tolerance(label, 6)
    plan = plan_scan(ratio_targets(label, 6, 2, tolerance), 6, 0.56)
    assert plan is not None
    epoch = FirstEpoch.from_label(label, 2, tolerance, 6, 0.65, 0.3)

    def look(plan, epoch, start, stop):
        if stop > 3_000:
            raise KeyboardInterrupt
        return 0, []

    monkeypatch.setattr(seed_scan, "CHUNK", 1_000)
    monkeypatch.setattr(seed_scan, "_look", look)
    with pytest.raises(KeyboardInterrupt):
        scan(plan, epoch, 100, 9_000, lambda seed: True, threads=1)
    assert capsys.readouterr().err.splitlines()[-1] == "scan interrupted; go on with -p seed_start=2100"


def test_a_scan_that_was_cut_off_goes_on_and_counts_the_same(monkeypatch, tmp_path):
    made = make(seed=30_500, epochs=2)
    whole, _ = find_seed(made.release, 0, 40_000)
    assert whole is not None
    assert whole.seed == 30_500
    monkeypatch.setattr(seed_scan, "CHUNK", 4_096)
    looked: list[int] = []
    look = seed_scan._look

    def interrupted(plan, epoch, start, stop):
        if start >= 12_288 and not looked:
            raise KeyboardInterrupt
        looked_at.append(start)
        return look(plan, epoch, start, stop)

    looked_at: list[int] = []
    monkeypatch.setattr(seed_scan, "_look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_seed(made.release, 0, 40_000, workdir=tmp_path)
    assert read_json(tmp_path / "scan.json")["next_seed"] == 12_288
    looked.append(1)
    looked_at.clear()
    again, _ = find_seed(made.release, 0, 40_000, workdir=tmp_path)
    assert again is not None
    assert min(looked_at) == 12_288
    assert (again.seed, again.start, again.survivors, again.fitting) == (
        whole.seed,
        whole.start,
        whole.survivors,
        whole.fitting,
    )
    assert not (tmp_path / "scan.json").exists()


@pytest.mark.parametrize(
    "kept",
    [
        '{"scan": {"label": "other"}, "next_seed": 5000, "survivors": 0, "fitting": 0}',
        '{"scan": {"label": "this"}, "next_seed": 99999999, "survivors": 0, "fitting": 0}',
        '{"scan": {"label": "this"}, "next_seed": "x", "survivors": 0, "fitting": 0}',
        '{"scan": {"label": "this"}, "next_seed": 5000, "more": 1}',
        "{",
        "[]",
    ],
)
def test_the_file_of_another_scan_or_a_damaged_one_counts_as_none(tmp_path, kept):
    (tmp_path / "scan.json").write_text(kept)
    assert ScanMark(tmp_path, {"label": "this"}).read(100, 9_000) == Progress(100)


def test_a_mark_is_read_as_it_was_written(tmp_path):
    mark = ScanMark(tmp_path, {"label": "this", "range": [100, 9_000]})
    mark.write(Progress(5_000, 7, 1))
    assert mark.read(100, 9_000) == Progress(5_000, 7, 1)
    mark.remove()
    assert mark.read(100, 9_000) == Progress(100)
