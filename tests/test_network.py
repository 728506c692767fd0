"""The trained similarity. Its data need no PyTorch; where PyTorch is missing the attack must say so in one line."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from instahide_nb.attack import carlini, network
from instahide_nb.attack.carlini.similarity import find_similarity
from instahide_nb.errors import InputError
from instahide_nb.release import Release, ReleaseInfo

HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture
def public():
    return np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)


def test_training_set_shows_only_sizes_of_mixtures_of_the_images(public):
    data = network.training_set(ReleaseInfo(k=4), public)
    assert data.size.shape == (20 * 12, 3, 16, 16)
    assert data.size.dtype == np.float32
    assert data.size.min() >= 0
    assert data.size.max() <= 1
    assert (np.bincount(data.pair.ravel()) == 24).all()  # each is first twelve times and second twelve times
    again = network.training_set(ReleaseInfo(k=4), public)
    assert again.size.tobytes() == data.size.tobytes()


def test_training_set_of_two_images_is_their_mixture(public):
    """With k = 2 nothing is added, so the size can be computed from the two images alone."""
    data = network.training_set(ReleaseInfo(k=2), public)
    chosen = np.random.default_rng(0).permutation(40)[:20]
    value = (2.0 * public[chosen] - 255) / 255
    first, second = (value[data.pair[5, s]].transpose(2, 0, 1).ravel() for s in range(2))
    size = data.size[5].ravel()
    fits = [np.abs(np.abs(c * first + (1 - c) * second) - size).max() for c in np.linspace(0, 1, 20_001)]
    assert min(fits) < 1e-3


def test_shared_images_are_told_and_a_batch_holds_many():
    rng = np.random.default_rng(0)
    pair = np.array([rng.permutation(30)[:2] for _ in range(300)])
    row = network.training_batch(pair, rng)
    assert len(set(row.tolist())) == len(row) > 50
    shared = network.shares_image(pair[row], pair[row])
    expected = [[bool(set(a) & set(b)) for b in pair[row].tolist()] for a in pair[row].tolist()]
    assert shared.tolist() == expected


def test_too_few_images_are_named(public):
    with pytest.raises(InputError, match="n_public"):
        network.training_set(ReleaseInfo(), public[:7])


def test_missing_pytorch_is_one_line_that_says_what_to_do(monkeypatch, public):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install '\.\[network\]'") as caught:
        find_similarity("network")
    assert "\n" not in str(caught.value)
    info = ReleaseInfo(n_private=20)
    release = Release(np.zeros((40, 16, 16, 3), np.float32), np.zeros((40, 2), np.float32), info)
    with pytest.raises(InputError, match="PyTorch"):  # before anything else is looked at
        carlini.attack(release, public, carlini.Settings(similarity="network"))


if HAS_TORCH:

    @pytest.fixture
    def smooth():
        """Images with structure: random blocks of 4x4."""
        block = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
        return block.repeat(4, axis=1).repeat(4, axis=2)

    def test_a_few_steps_of_training_help(smooth):
        data = network.training_set(ReleaseInfo(k=3), smooth)
        _, loss = network.train_network(data, steps=25, width=8)
        assert np.mean(loss[-5:]) < np.mean(loss[:3])

    def test_weights_survive_being_saved_and_decide_the_similarity(smooth, tmp_path, monkeypatch):
        data = network.training_set(ReleaseInfo(k=3), smooth)
        trained, _ = network.train_network(data, steps=3, width=8)
        path = tmp_path / "weights.npz"
        network.save_weights(path, trained)
        monkeypatch.setenv("INSTAHIDE_NB_NETWORK", str(path))
        x = data.size[:30].transpose(0, 2, 3, 1)
        release = Release(np.ascontiguousarray(x), np.full((30, 2), 0.3, np.float32), ReleaseInfo())
        first = find_similarity("network")(release, smooth)
        second = network.network_similarity(release, smooth)
        assert first.shape == (30, 30)
        assert first.tobytes() == second.tobytes()
        assert first.diagonal() == pytest.approx(1.0, abs=1e-4)
        path.write_bytes(b"no weights")
        with pytest.raises(InputError, match="delete it"):
            network.load_weights(path)
