"""What is drawn again, against what was drawn; and masks that do not lie where they should."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_challenge import make, positive

from instahide_nb.attacks.generator.replay import (
    SAME_SIGN,
    Layout,
    align,
    image_classes,
    replay_coefficients,
    replay_epochs,
    signs_agree,
)
from instahide_nb.scheme.mersenne import low_bits, seeded_window
from instahide_nb.scheme.streams import Mt19937Stream


@pytest.mark.parametrize(
    ("scheme", "k"), [("cross", 6), ("cross", 3), ("cross", 2), ("inside", 4), ("mixup", 2)]
)
def test_replay_is_what_was_drawn(scheme, k):
    made = make(seed=123, scheme=scheme, k=k, epochs=4)
    layout = Layout.of(made.release)
    replay = replay_epochs(made.release, seeded_window(123), layout.starts(), 123, made.release.info.n_public)
    np.testing.assert_array_equal(replay.index, made.mixtures.index)
    np.testing.assert_array_equal(replay.weight, made.mixtures.weight)
    np.testing.assert_array_equal(replay.positive, positive(made))
    np.testing.assert_array_equal(replay_coefficients(made.release.info, 123, 4), made.mixtures.weight)


def test_replay_of_a_state_without_seed():
    """T does not depend on how often rows of coefficients were redrawn, so C need not be known."""
    window, other = np.random.default_rng(4).integers(0, 2**32, (2, 624), dtype=np.uint32)
    states = {"T": window.astype("<u4").tobytes().hex(), "C": other.astype("<u4").tobytes().hex()}
    made = make(stream=Mt19937Stream("entropy", states), epochs=3)
    replay = replay_epochs(made.release, window, Layout.of(made.release).starts(), None, 60)
    assert replay.weight is None
    np.testing.assert_array_equal(replay.index, made.mixtures.index)
    np.testing.assert_array_equal(replay.positive, positive(made))


def test_mask_words_are_where_the_masks_are():
    made = make(seed=9, epochs=5)
    layout, size = Layout.of(made.release), made.release.encryption[0].size
    bits = low_bits(seeded_window(9), 0, layout.epochs * layout.epoch)
    rng = np.random.default_rng(0)
    row, value = rng.integers(0, len(made.release.encryption), 2000), rng.integers(0, size, 2000)
    np.testing.assert_array_equal(bits[layout.mask_word(row, value, 20)], positive(made)[row, value])


def test_right_masks_make_neighbours_agree_and_others_do_not():
    made = make(seed=2, epochs=4)
    assert signs_agree(made.release, positive(made)).min() > 0.85
    other = signs_agree(made.release, positive(make(seed=3, epochs=4)))
    assert abs(other - 0.5).max() < 0.1
    assert 0.6 < SAME_SIGN < 0.85


@pytest.mark.parametrize("extra", [(0,), (4,), (1, 0, 2, 700), (100_000, 3)])
def test_epochs_are_found_behind_extra_words(extra):
    made = make(seed=31, epochs=6, extra_words=extra)
    found = align(made.release, seeded_window(31))
    assert found is not None
    starts, n_public = found
    before = np.add.accumulate([extra[e % len(extra)] for e in range(6)])
    assert (starts - Layout.of(made.release).starts()).tolist() == before.tolist()
    assert n_public == 60
    replay = replay_epochs(made.release, seeded_window(31), starts, 31, n_public)
    np.testing.assert_array_equal(replay.index, made.mixtures.index)
    np.testing.assert_array_equal(replay.positive, positive(made))


def test_number_of_public_images_follows_from_the_places_of_the_masks():
    """A folder of two arrays, as in 2020, does not name it."""
    made = make(seed=31, epochs=6, n_public=60)
    bare = replace(made.release, info=replace(made.release.info, n_public=0))
    found = align(bare, seeded_window(31))
    assert found is not None
    assert found[0].tolist() == Layout.of(made.release).starts().tolist()
    assert found[1] == 60


def test_masks_of_another_generator_are_not_found():
    assert align(make(seed=31, epochs=3).release, seeded_window(32), first_limit=200_000) is None


def test_classes_follow_from_pairs_and_labels():
    made = make(seed=1)
    classes, agreeing = image_classes(made.release.label, made.mixtures.index[:, :2])
    assert classes.tolist() == [i % 5 for i in range(20)]
    assert agreeing == 1.0
    shuffled = np.random.default_rng(0).permutation(made.mixtures.index[:, :2])
    assert image_classes(made.release.label, shuffled)[1] < 0.5
