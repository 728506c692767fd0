"""What is drawn again, against what was drawn; and masks that are not where they should be."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_challenge import make, positive

from instahide_nb.attacks.generator.replay import Layout, align, find_replay, makes_labels, replay_epochs
from instahide_nb.scheme.mersenne import seeded_window


@pytest.mark.parametrize(("scheme", "k"), [("cross", 6), ("cross", 3), ("cross", 2), ("inside", 4), ("mixup", 2)])
def test_replay_is_what_was_drawn(scheme, k):
    made = make(seed=123, scheme=scheme, k=k, epochs=4)
    replay, pairs_fit, _ = find_replay(made.release, seeded_window(123), 123)
    assert pairs_fit
    np.testing.assert_array_equal(replay.index, made.mixtures.index)
    np.testing.assert_array_equal(replay.weight, made.mixtures.weight)
    np.testing.assert_array_equal(replay.positive, positive(made))
    assert makes_labels(made.release, 123, 1e-6)
    assert not makes_labels(made.release, 124, 1e-6)


@pytest.mark.parametrize("labels", ["coefficients", "none"])
def test_secure_permutations_leave_coefficients_and_masks_to_the_replay(labels):
    made = make(seed=123, rng="mt19937-secure-permutations", epochs=4, labels=labels)
    replay, pairs_fit, _ = find_replay(made.release, seeded_window(123), 123)
    assert not pairs_fit
    np.testing.assert_array_equal(replay.weight, made.mixtures.weight)
    np.testing.assert_array_equal(replay.positive, positive(made))
    assert (replay.index != made.mixtures.index).any()


def test_replay_of_public_images_that_are_used_once():
    made = make(seed=5, epochs=4, n_public=170, public_once=True)
    assert len(np.unique(made.mixtures.index[:, 2:])) == 20 * 4 * 2
    replay, pairs_fit, told = find_replay(made.release, seeded_window(5), 5)
    assert pairs_fit
    assert told["n_public"] == 170
    np.testing.assert_array_equal(replay.index, made.mixtures.index)
    np.testing.assert_array_equal(replay.positive, positive(made))


@pytest.mark.parametrize(
    ("extra", "named"), [((0,), True), ((0,), False), ((1, 0, 2, 700), True), ((100_000, 3), True)]
)
def test_epochs_are_found_behind_extra_words(extra, named):
    """The size of the pool follows from the places of the masks where it is not named and nothing comes between."""
    made = make(seed=31, epochs=6, extra_words=extra)
    info = made.release.info.changed(n_public=60 if named else 0)
    found = align(replace(made.release, info=info), seeded_window(31))
    assert found is not None
    starts, n_public = found
    before = np.add.accumulate([extra[e % len(extra)] for e in range(6)])
    assert (starts - Layout.of(made.release).starts()).tolist() == before.tolist()
    assert n_public == 60
    replay = replay_epochs(made.release, seeded_window(31), starts, 31, n_public)
    np.testing.assert_array_equal(replay.index, made.mixtures.index)
    np.testing.assert_array_equal(replay.positive, positive(made))


def test_masks_of_another_generator_are_not_found():
    assert align(make(seed=31, epochs=3).release, seeded_window(32), first_limit=200_000) is None
