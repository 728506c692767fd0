"""Rows that a seed's own numbers keep: what is ruled out is wrong for certain, and the rest is not touched."""

import numpy as np
import pytest
from test_seed_scan import first_labels

from instahide_nb.attack.generator import row_decision, seed_scan
from instahide_nb.attack.generator.first_epoch import FirstEpoch
from instahide_nb.attack.generator.label_ratios import label_tolerance, ratio_targets
from instahide_nb.attack.generator.scan_plan import plan_scan
from instahide_nb.attack.generator.seed_lanes import LANES


def test_numbers_are_as_near_as_promised():
    rng = np.random.default_rng(0)
    radius = np.sqrt(
        np.concatenate([rng.uniform(0, 1, 40 * LANES), 1 - 2.0 ** rng.uniform(-24, -1, 24 * LANES)])
    )
    angle = rng.uniform(0, np.pi / 4, len(radius))
    x, y = (radius * np.sin(angle)).astype(np.float32), (radius * np.cos(angle)).astype(np.float32)
    r2 = x.astype(np.float64) ** 2 + y.astype(np.float64) ** 2
    inside = (x * x + y * y < 1) & (r2 < 1)
    f = np.sqrt(-2 * np.log(np.where(inside, r2, 0.5)) / r2)
    both, greater = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
    scale = np.float32(2.0**31)
    for low in range(0, len(x), LANES):
        part = slice(low, low + LANES)
        row_decision.numbers(x[part] * scale, y[part] * scale, both[part], greater[part])
    share, rest = row_decision.NUMBER_ERROR
    for found, exact in ((both, f * (x + y)), (greater, f * y)):
        assert (np.abs(found - exact) <= share * exact + rest)[inside].all()


@pytest.mark.parametrize(("k", "decimals"), [(6, None), (6, 3), (4, None), (2, None)])
def test_survivors_are_those_of_a_scan_without_it_but_for_wrong_ones(monkeypatch, k, decimals):
    plain = np.array([], np.int64)
    for seed in range(40):
        label = first_labels(seed, k, 2, decimals)
        tolerance, _ = label_tolerance(label, k)
        plan = plan_scan(ratio_targets(label, k, 2, tolerance), k, 0.5)
        assert plan is not None
        epoch = FirstEpoch.from_label(label, 2, tolerance, k, 0.65, 0.3)
        assert len(row_decision.deciding_rows(epoch).first) > 0
        less = seed_scan._look(plan, epoch, 0, 5_000)
        with monkeypatch.context() as patch:
            patch.setattr(row_decision, "_MOST_ROWS", 0)
            more = seed_scan._look(plan, epoch, 0, 5_000)
        assert less[1] == more[1]
        assert less[0] <= more[0]
        plain = np.append(plain, [less[0], more[0]])
    assert plain[::2].sum() < plain[1::2].sum()


def test_labels_of_more_than_two_images_and_odd_k_decide_nothing():
    for k, places in ((5, 2), (6, 6), (16, 2)):
        label = first_labels(3, 5 if k == 16 else k, places, None)
        epoch = FirstEpoch.from_label(label, places, 1e-6, k, 0.65, 0.3)
        assert len(row_decision.deciding_rows(epoch).first) == 0
