"""Slots read from labels, and their assignment to images."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from instahide_nb.attacks.unmask.assignment import Slots, assign, read_slots
from instahide_nb.core.errors import InputError


def random_labels(size: list[int], epochs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of epochs in which every image is once first and once second, and the true pairs."""
    rng = np.random.default_rng(seed)
    image_class = np.repeat(np.arange(len(size)), size)
    n = len(image_class)
    label, pair = [], []
    for _ in range(epochs):
        first = rng.permutation(n)
        second = rng.permutation(n)
        rows = np.zeros((n, len(size)))
        lam = rng.uniform(0.1, 0.4, (n, 2))
        np.add.at(rows, (np.arange(n), image_class[first]), lam[:, 0])
        np.add.at(rows, (np.arange(n), image_class[second]), lam[:, 1])
        label.append(rows)
        pair.append(np.stack([first, second], axis=1))
    return np.concatenate(label), np.concatenate(pair)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(1, 4), st.integers(0, 99))
def test_class_sizes_and_epochs_follow_from_labels(size: list[int], epochs: int, seed: int) -> None:
    label, _ = random_labels(size, epochs, seed)
    assume(((label > 0).sum(axis=1) == 2).any())
    slots = read_slots(label, sum(size))
    assert np.diff(slots.start).tolist() == size
    assert slots.epoch.tolist() == np.repeat(np.arange(epochs), sum(size)).tolist()


@given(st.integers(0, 50))
def test_slots_hold_the_label(seed: int) -> None:
    label, _ = random_labels([3, 2, 4], 3, seed)  # 27 rows: two classes occur in one of them at least
    slots = read_slots(label, 9)
    again = np.zeros_like(label, dtype=np.float32)
    for s in range(2):
        np.add.at(again, (np.arange(len(label)), slots.image_class[:, s]), slots.coefficient[:, s])
    assert np.allclose(again, label, atol=1e-6)
    assert (slots.coefficient[:, 0] >= slots.coefficient[:, 1]).all()


def test_shuffled_rows_have_no_epochs() -> None:
    label, _ = random_labels([5, 5], 10, 0)
    slots = read_slots(label[np.random.default_rng(0).permutation(len(label))], 10)
    assert (slots.epoch == -1).all()


def test_assignment_finds_the_best_of_all_in_an_epoch() -> None:
    rng = np.random.default_rng(3)
    slots = Slots(
        image_class=np.zeros((2, 2), np.int64),
        coefficient=np.full((2, 2), 0.3, np.float32),
        shared=np.ones(2, bool),
        start=np.array([0, 2]),
        epoch=np.zeros(2, np.int64),
    )
    score = rng.normal(size=(2, 2, 2)).astype(np.float32)
    found = assign(slots, score)
    assert sorted(found.ravel()) == [0, 0, 1, 1]
    value = sum(score[i, s, found[i, s]] for i in range(2) for s in range(2))
    best = max(
        sum(score[i, s, order[2 * i + s]] for i in range(2) for s in range(2))
        for order in set(permutations([0, 0, 1, 1]))
    )
    assert np.isclose(value, best)


def test_every_image_fills_two_slots_of_each_epoch() -> None:
    label, _ = random_labels([4, 3], 5, 1)
    slots = read_slots(label, 7)
    score = np.random.default_rng(2).normal(size=(len(label), 2, 7)).astype(np.float32)
    found = assign(slots, score)
    for epoch in range(5):
        assert np.bincount(found[slots.epoch == epoch].ravel(), minlength=7).tolist() == [2] * 7


def test_images_stay_in_their_class() -> None:
    label, _ = random_labels([4, 3], 5, 1)
    slots = read_slots(label[::-1][:-1], 7)  # a row short: no epochs
    score = np.random.default_rng(2).normal(size=(len(slots.shared), 2, 7)).astype(np.float32)
    found = assign(slots, score)
    assert np.array_equal((found >= 4).astype(int), slots.image_class)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full((8, 3), 0.2), "one or two"),
        (np.zeros((8, 3)), "one or two"),
        (-np.eye(3)[[0, 1, 2, 0, 1, 2]], "one or two"),
        (np.eye(3)[[0, 1, 2, 0, 1, 2]], "not coefficients"),
        (np.linspace(0.3, 0.9, 8)[:, None], "two classes"),
        (np.array([[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]] * 4), "not coefficients"),
    ],
)
def test_unsuitable_labels_are_refused(label: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_slots(label, 3)


def test_fewer_images_than_classes_are_refused() -> None:
    label, _ = random_labels([1, 1, 1, 1], 3, 0)
    with pytest.raises(InputError, match="n_private"):
        read_slots(label, 3)
