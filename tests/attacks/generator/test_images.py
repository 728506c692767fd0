"""Images from known masks and pairs: exact wherever the equations allow."""

import numpy as np
import pytest
from synthetic_challenge import Synthetic, make, positive, smooth_images

from instahide_nb.attacks.generator import images as images_module
from instahide_nb.attacks.generator.images import recover_images, without_mask
from instahide_nb.attacks.generator.replay import Replay
from instahide_nb.attacks.mixtures import Mixtures, fit
from instahide_nb.scheme.encryption import pixel_values

OTHER_PUBLIC = smooth_images(100, 16, 77)


def replay_of(made: Synthetic, *, coefficients: bool = True) -> Replay:
    return Replay(made.mixtures.index, made.mixtures.weight if coefficients else None, positive(made))


def values(images: np.ndarray) -> np.ndarray:
    return (2.0 * images.reshape(len(images), -1) - 255) / 255


def error(found: np.ndarray, made: Synthetic) -> float:
    return float(np.sqrt(((found - values(made.private)) ** 2).mean()))


def plain_fit(made: Synthetic) -> np.ndarray:
    """Least squares with the public parts as independent noise."""
    rows = without_mask(made.release.encryption, positive(made))
    pair, weight = made.mixtures.index[:, :2].astype(np.int64), made.mixtures.weight[:, :2] / 2**24
    return fit(rows, Mixtures(pair, weight, 20), np.ones(len(rows)), values(OTHER_PUBLIC).mean(axis=0), 0.0)


@pytest.mark.parametrize(
    ("scheme", "k", "p", "public"),
    [("cross", 4, 2, 58), ("cross", 4, 3, 58), ("cross", 2, 2, 0), ("inside", 4, 4, 0), ("mixup", 2, 2, 0)],
)
def test_all_coefficients_make_images_exact_without_any_public_image(scheme, k, p, public):
    made = make(scheme=scheme, k=k, private_per_mix=p)
    images = recover_images(made.release, replay_of(made), np.zeros((0, 16, 16, 3), np.uint8))
    assert images.proved.all()
    assert images.reproduced == 1.0
    assert images.public_images >= public
    np.testing.assert_array_equal(images.pixels((16, 16, 3)), pixel_values(made.private))
    pair, weight = made.mixtures.index[:, :p], made.mixtures.weight[:, :p]
    larger = np.take_along_axis(pair, weight.argmax(axis=1)[:, None], axis=1)[:, 0]
    ordered = images.ordered_pairs(made.mixtures.index)
    np.testing.assert_array_equal(ordered[:, 0], larger)
    np.testing.assert_array_equal(np.sort(ordered, axis=1), np.sort(pair, axis=1))


def test_too_large_a_joint_system_is_left_alone(monkeypatch):
    """Then the public parts are noise whose covariance the residuals show."""
    monkeypatch.setattr(images_module, "MOST_UNKNOWNS", 30)
    made = make()
    images = recover_images(made.release, replay_of(made), OTHER_PUBLIC)
    assert not images.proved.any()
    assert error(images.private, made) < error(plain_fit(made), made) / 2


def test_residuals_show_the_covariance_that_is_not_known():
    made = make(epochs=50)
    images = recover_images(made.release, replay_of(made, coefficients=False), OTHER_PUBLIC)
    assert not images.proved.any()
    assert error(images.private, made) < error(plain_fit(made), made) / 2
    classes = made.mixtures.index[:, :2] % 5
    alone = classes[:, 0] != classes[:, 1]
    np.testing.assert_array_equal(images.coefficient[alone], made.mixtures.weight[alone, :2] / 2**24)


def test_wrong_masks_prove_nothing():
    made = make()
    wrong = Replay(made.mixtures.index, made.mixtures.weight, positive(make(seed=5)))
    images = recover_images(made.release, wrong, OTHER_PUBLIC)
    assert not images.proved.any()
    assert images.reproduced == 0.0
