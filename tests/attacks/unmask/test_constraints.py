"""What labels, sums and the law of coefficients say before any image is known."""

from __future__ import annotations

import numpy as np
import pytest

from instahide_nb.attacks.mixtures import Mixtures
from instahide_nb.attacks.unmask.constraints import (
    by_law,
    coefficient_law,
    in_epochs,
    read_known,
    scales_by_law,
    scales_by_sum,
)
from instahide_nb.challenge.release import ReleaseInfo
from instahide_nb.core.errors import InputError


@pytest.mark.parametrize(
    ("label", "n_images", "message"),
    [
        ([[0.2, 0.2, 0.2]], 9, "between 1 and 2"),
        ([[0.0, 0.0, 0.0]], 9, "between 1 and 2"),
        ([[0.5, -0.1, 0.0]], 9, "between 1 and 2"),
        ([[0.5, 0.1, 0.0], [0.0, 0.1, 0.3]], 2, "cannot cover the 3 classes"),
    ],
)
def test_unusable_labels_are_one_line(label: list[list[float]], n_images: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_known(np.array(label), len(label), n_images, 2)


def test_epochs_show_through_wrong_codes() -> None:
    rng = np.random.default_rng(0)
    held = np.concatenate([np.stack([rng.permutation(40), rng.permutation(40)], axis=1) for _ in range(30)])
    wrong = rng.random(held.shape) < 0.4
    noisy = np.where(wrong, rng.integers(0, 40, held.shape), held)
    assert in_epochs(noisy, 40)
    assert not in_epochs(rng.permutation(noisy), 40)
    assert not in_epochs(noisy[:-1], 40)


def test_the_law_gives_ranks_their_values() -> None:
    law = coefficient_law(ReleaseInfo(k=6))
    assert law.shape[1] == 2
    assert (law[:, 0] >= law[:, 1]).all()
    rng = np.random.default_rng(1)
    drawn = law[rng.permutation(len(law))]
    assert np.abs(by_law(np.sqrt(drawn), law) - drawn).max() < 0.01
    assert np.abs(by_law(np.sqrt(drawn)[:5000, ::-1], law) - drawn[:5000, ::-1]).mean() < 0.01


def test_scales_of_images_are_undone() -> None:
    rng = np.random.default_rng(2)
    held = np.stack([rng.integers(0, 10, 2000), rng.integers(0, 10, 2000)], axis=1)
    law = coefficient_law(ReleaseInfo(scheme="inside", k=4))[:, :2]
    share = rng.permutation(law)[:2000]
    factor = rng.uniform(0.5, 2, 10)
    off = Mixtures(held, (share * factor[held]).astype(np.float32), 10)
    assert np.abs(scales_by_law(off, law) * factor - 1).max() < 0.15
    share = share / share.sum(axis=1, keepdims=True)
    off = Mixtures(held, (share * factor[held]).astype(np.float32), 10)
    assert np.abs(scales_by_sum(off, read_known(None, 2000, 10, 2)) * factor - 1).max() < 0.05
    # sums of two classes
    label = np.zeros((2000, 2))
    np.add.at(label, (np.arange(2000)[:, None], held // 5), share)
    assert np.abs(scales_by_sum(off, read_known(label, 2000, 10, 2)) * factor - 1).max() < 0.05
