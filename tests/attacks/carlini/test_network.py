"""The trained similarity. Only training needs PyTorch; where it is missing the attack must say so in one line."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from scipy.signal import correlate2d

from instahide_nb.attacks.carlini import feature_network, network
from instahide_nb.attacks.carlini.similarity import check_similarity, open_similarity
from instahide_nb.attacks.carlini.simulation import simulate
from instahide_nb.attacks.carlini.stages import Stages
from instahide_nb.attacks.registry import run_attack
from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import save_array
from instahide_nb.core.progress import progress

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="PyTorch is not installed; pip install '.[network]' to train a network",
)


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
    chosen = np.random.default_rng(0).permutation(40)[::-1][:20]
    value = (2.0 * public[chosen] - 255) / 255
    first, second = (value[data.pair[5, s]].transpose(2, 0, 1).ravel() for s in range(2))
    size = data.size[5].ravel()
    fits = [np.abs(np.abs(c * first + (1 - c) * second) - size).max() for c in np.linspace(0, 1, 20_001)]
    assert min(fits) < 1e-3


def test_training_and_the_simulated_challenge_hide_different_images(public):
    """Else the network would do better in the simulation than on the release."""
    info = ReleaseInfo(n_private=8, k=4, encryptions_per_image=5)
    data = network.training_set(info, public)
    label = np.zeros((40, 2), np.float32)
    label[:, 0], label[:, 1] = np.linspace(0.1, 0.4, 40), 0.3
    made = simulate(Release(np.zeros((40, 16, 16, 3), np.float32), label, info), public)
    value = (2.0 * public - 255) / 255
    simulated = {int(np.argmin(np.abs(value - image).sum(axis=(1, 2, 3)))) for image in made.private}
    trained = set(np.random.default_rng(0).permutation(40)[::-1][: len(np.unique(data.pair))].tolist())
    assert len(simulated) == 8
    assert not simulated & trained


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
        check_similarity("network")
    assert "\n" not in str(caught.value)
    info = ReleaseInfo(n_private=20)
    release = Release(np.zeros((40, 16, 16, 3), np.float32), np.zeros((40, 2), np.float32), info)
    with pytest.raises(InputError, match="PyTorch"):  # before anything else is looked at
        run_attack("carlini-v2:similarity=network", release, public)


# what a network computes: needs no PyTorch


def made_weights(width: int = 8, seed: int = 0) -> np.ndarray:
    count = sum(int(np.prod(shape)) for shape in feature_network.weight_shapes(width))
    return np.random.default_rng(seed).normal(0, 0.3, count).astype(np.float32)


def convolved(x, kernel, stride=1):
    """Channels first, by scipy's correlation, a plane at a time."""
    return np.stack(
        [
            sum(correlate2d(plane, k, mode="same") for plane, k in zip(x, each, strict=True))[
                ::stride, ::stride
            ]
            for each in kernel
        ]
    )


def normalised(x, scale, shift):
    out = np.empty_like(x)
    for low in range(0, len(x), len(x) // 8):
        part = x[low : low + len(x) // 8]
        out[low : low + len(x) // 8] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return out * scale[:, None, None] + shift[:, None, None]


def test_features_are_those_of_the_layers_one_by_one():
    weights = made_weights()
    size = np.random.default_rng(1).uniform(0, 1, (3, 10, 10, 3)).astype(np.float32)
    shapes = feature_network.weight_shapes(8)
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    layer = [
        part.reshape(shape)
        for part, shape in zip(np.split(weights.astype(float), ends[:-1]), shapes, strict=True)
    ]
    for found, image in zip(feature_network.features(weights, size), size, strict=True):
        x = np.maximum(convolved(image.transpose(2, 0, 1), layer[0], 2) + layer[1][:, None, None], 0)
        for at in (2, 8):
            y = np.maximum(normalised(convolved(x, layer[at]), *layer[at + 1 : at + 3]), 0)
            x = np.maximum(x + normalised(convolved(y, layer[at + 3]), *layer[at + 4 : at + 6]), 0)
        map_ = (convolved(x, layer[14]) + layer[15][:, None, None]).transpose(1, 2, 0).ravel()
        map_ -= map_.mean()
        assert found == pytest.approx(map_ / np.linalg.norm(map_), abs=1e-5)


def test_a_similarity_from_a_file_feels_no_mask_and_needs_no_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    save_array(tmp_path / "weights.npy", made_weights())
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (70, 16, 16, 3)).astype(np.float32)  # more than one chunk
    sign = rng.choice(np.array([-1, 1], np.float32), x.shape)
    check_similarity(str(tmp_path / "weights.npy"))
    compare = open_similarity(str(tmp_path / "weights.npy"), ReleaseInfo(), x[:0], None)
    plain, masked = (
        compare(Release(v, np.ones((70, 2), np.float32), ReleaseInfo()), None) for v in (x, x * sign)
    )
    assert (plain == masked).all()
    assert plain.diagonal() == pytest.approx(1.0, abs=1e-4)
    assert plain == pytest.approx(plain.T, abs=1e-6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros(100, np.float32), "holds no weights"),
        (made_weights().astype(np.float64), "holds float64"),
        (np.full_like(made_weights(), np.nan), "holds no weights"),
        (made_weights().reshape(1, -1), "has shape"),
    ],
)
def test_a_file_of_other_content_is_named(tmp_path, content, words):
    save_array(tmp_path / "weights.npy", content)
    with pytest.raises(InputError, match=rf"weights\.npy: {words}"):
        check_similarity(str(tmp_path / "weights.npy"))


# training


@pytest.fixture
def smooth():
    """Images with structure: random blocks of 4x4."""
    block = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    return block.repeat(4, axis=1).repeat(4, axis=2)


@needs_torch
def test_a_few_steps_of_training_help(smooth):
    data = network.training_set(ReleaseInfo(k=3), smooth)
    _, loss = network.train_network(data, steps=25, width=8)
    assert np.mean(loss[-5:]) < np.mean(loss[:3])


@needs_torch
def test_numpy_computes_what_was_trained(smooth):
    """The same weights in PyTorch and in numpy."""
    torch = network.require_torch()
    data = network.training_set(ReleaseInfo(k=3), smooth)
    trained, _ = network.train_network(data, steps=3, width=8)
    with torch.no_grad():
        maps = trained(torch.from_numpy(data.size[:9])).numpy().transpose(0, 2, 3, 1).reshape(9, -1)
    maps -= maps.mean(axis=1, keepdims=True)
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    weights = network.flat_weights(trained)
    shapes = [tuple(value.shape) for value in trained.state_dict().values()]
    assert shapes == feature_network.weight_shapes(8)
    found = feature_network.features(weights, np.ascontiguousarray(data.size[:9].transpose(0, 2, 3, 1)))
    assert found == pytest.approx(maps, abs=1e-5)


@needs_torch
def test_the_attack_trains_a_network_and_loads_it_again(smooth, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "_STEPS", 3)
    info = ReleaseInfo(k=3)
    stage = Stages(tmp_path, progress())
    compare = open_similarity("network", info, smooth, stage)
    again = open_similarity(str(tmp_path / "network.npy"), info, smooth, stage)
    x = network.training_set(info, smooth).size[:30].transpose(0, 2, 3, 1)
    release = Release(np.ascontiguousarray(x), np.full((30, 2), 0.3, np.float32), info)
    assert compare(release, smooth).tobytes() == again(release, smooth).tobytes()
    assert list(stage.seconds) == ["network"]
