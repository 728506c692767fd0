"""Images from known masks and pairs: exact wherever the equations allow."""

import numpy as np
import pytest
from synthetic_challenge import Synthetic, make, positive, smooth_images

from instahide_nb.attacks.generator.exact_images import ordered_pairs, recover_images, recovered_pixels
from instahide_nb.attacks.generator.joint import joint_images
from instahide_nb.attacks.generator.known_signs import (
    generalised_images,
    lift,
    public_covariance,
    reproduced,
    row_coefficients,
)
from instahide_nb.attacks.generator.replay import Replay
from instahide_nb.scheme.encryption import pixel_values

OTHER_PUBLIC = smooth_images(100, 16, 77)


def replay_of(made: Synthetic, *, coefficients: bool = True) -> Replay:
    weight = made.mixtures.weight if coefficients else None
    return Replay(made.mixtures.index, weight, positive(made))


def values(images: np.ndarray) -> np.ndarray:
    return (2.0 * images.reshape(len(images), -1) - 255) / 255


@pytest.mark.parametrize(("scheme", "k"), [("cross", 4), ("cross", 2), ("inside", 4), ("mixup", 2)])
def test_all_coefficients_make_images_exact_without_any_public_image(scheme, k):
    made = make(scheme=scheme, k=k)
    images = recover_images(made.release, replay_of(made), np.zeros((0, 16, 16, 3), np.uint8))
    assert images.exact
    assert images.reproduced == 1.0
    pixels = recovered_pixels(images, (16, 16, 3))
    np.testing.assert_array_equal(pixels, pixel_values(made.private))
    pair, weight = made.mixtures.index[:, :2], made.mixtures.weight[:, :2]
    larger = np.take_along_axis(pair, weight.argmax(axis=1)[:, None], axis=1)[:, 0]
    ordered = ordered_pairs(images, made.mixtures.index)
    np.testing.assert_array_equal(ordered[:, 0], larger)
    np.testing.assert_array_equal(np.sort(ordered, axis=1), np.sort(pair, axis=1))


def test_joint_solution_holds_the_public_images_that_were_used():
    made = make(epochs=30)
    lifted = lift(made.release.encryption, positive(made))
    found = joint_images(lifted, made.mixtures.index, made.mixtures.weight / 2**24, 20, np.zeros(768))
    assert found is not None
    private, used, public = found
    assert used.tolist() == np.unique(made.mixtures.index[:, 2:]).tolist()
    np.testing.assert_allclose(private, values(made.private), atol=1e-4)
    np.testing.assert_allclose(public, values(made.public)[used], atol=1e-3)


def test_too_large_a_joint_system_is_left_alone(monkeypatch):
    monkeypatch.setattr("instahide_nb.attacks.generator.joint.MOST_UNKNOWNS", 30)
    made = make()
    images = recover_images(made.release, replay_of(made), OTHER_PUBLIC)
    assert not images.proved.any()
    # Generalised least squares is still within a few grey levels.
    assert np.sqrt(((images.private - values(made.private)) ** 2).mean()) < 0.02


def test_generalised_least_squares_sees_where_the_public_part_vanishes():
    """Far below the error of weighted least squares, which takes the public part of each encryption for noise."""
    made = make(epochs=20)
    mean = values(OTHER_PUBLIC).mean(axis=0)
    lifted, coefficient = lift(made.release.encryption, positive(made)), made.mixtures.weight / 2**24
    target = lifted - coefficient[:, 2:].sum(axis=1, keepdims=True) * mean
    pair, public = made.mixtures.index[:, :2], made.mixtures.index[:, 2:]
    known = lambda rows: public_covariance(public[rows], coefficient[rows, 2:])  # noqa: E731
    good = generalised_images(target, pair, coefficient[:, :2], 20, known)
    plain = generalised_images(target, pair, coefficient[:, :2], 20)
    error = [np.sqrt(((images - values(made.private)) ** 2).mean()) for images in (good, plain)]
    assert error[0] < error[1] / 3


def test_residuals_show_the_covariance_that_is_not_known():
    made = make(epochs=50)
    images = recover_images(made.release, replay_of(made, coefficients=False), OTHER_PUBLIC)
    assert not images.proved.any()
    coefficient = made.mixtures.weight[:, :2] / 2**24
    rest = 1 - coefficient.sum(axis=1, keepdims=True)
    target = lift(made.release.encryption, positive(made)) - rest * values(OTHER_PUBLIC).mean(axis=0)
    plain = generalised_images(target, made.mixtures.index[:, :2], coefficient, 20)
    error = [np.sqrt(((found - values(made.private)) ** 2).mean()) for found in (images.private, plain)]
    assert error[0] < error[1] / 2
    classes = made.mixtures.index[:, :2] % 5
    alone = classes[:, 0] != classes[:, 1]
    np.testing.assert_array_equal(images.coefficient[alone], made.mixtures.weight[alone, :2] / 2**24)


def test_own_public_images_make_images_exact_without_coefficients():
    made = make(epochs=40)
    images = recover_images(made.release, replay_of(made, coefficients=False), made.public)
    assert images.exact
    assert images.reproduced > 0.8
    np.testing.assert_array_equal(recovered_pixels(images, (16, 16, 3)), pixel_values(made.private))


def test_as_many_other_public_images_are_not_taken_for_the_own():
    made = make(epochs=20)
    images = recover_images(made.release, replay_of(made, coefficients=False), smooth_images(60, 16, 78))
    assert images.how == "pairs, masks and the labels' coefficients"


def test_wrong_masks_prove_nothing():
    made = make()
    wrong = Replay(made.mixtures.index, made.mixtures.weight, positive(make(seed=5)))
    images = recover_images(made.release, wrong, OTHER_PUBLIC)
    assert not images.proved.any()
    assert images.reproduced == 0.0


def test_a_single_grey_level_is_noticed():
    made = make(epochs=3)
    flat = made.release.encryption.reshape(60, -1)
    private, public = made.private.reshape(20, -1).copy(), made.public.reshape(60, -1)
    index, weight = made.mixtures.index, made.mixtures.weight
    assert reproduced(flat, index, weight, private, public, 2).all()
    private[7, 100] ^= 1
    np.testing.assert_array_equal(
        reproduced(flat, index, weight, private, public, 2), ~(index[:, :2] == 7).any(axis=1)
    )


def test_coefficients_of_known_images():
    made = make(epochs=3)
    found = row_coefficients(
        lift(made.release.encryption, positive(made)),
        made.mixtures.index,
        values(made.private),
        values(made.public),
        2,
    )
    different = [len(set(row[:2])) == 2 and len(set(row[2:])) == 2 for row in made.mixtures.index.tolist()]
    np.testing.assert_allclose(found[different], made.mixtures.weight[different] / 2**24, atol=1e-6)
