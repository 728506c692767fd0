"""A trained similarity: a small residual network that sees absolute values, in place of the published Wide ResNet 28-6.

The published network takes the absolute values of two encryptions together and says whether they share a private
image, so it runs once for each of 12.5 million pairs. This one turns each encryption into a map of features, and the
similarity of two is the correlation of their maps: it runs 5,000 times. It is trained on encryptions that are made of
the attacker's public images. PyTorch (``pip install '.[network]'``) is needed, a GPU is used where there is one, and
unlike all else here the result is not promised to be the same to the last bit on another machine.

``INSTAHIDE_NB_NETWORK`` may name an ``.npz`` file of weights: it is loaded where it exists, and written after training
where it does not.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.encryption import encrypt
from instahide_nb.errors import InputError
from instahide_nb.progress import progress
from instahide_nb.release import Release, ReleaseInfo
from instahide_nb.streams import Mt19937Stream

__all__ = [
    "TrainingSet",
    "build_network",
    "load_weights",
    "network_similarity",
    "require_torch",
    "save_weights",
    "shares_image",
    "train_network",
    "training_batch",
    "training_set",
]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_EPOCHS = 12  # encryptions of each playing private image
_IMAGES, _EACH = 32, 4  # a batch: so many private images, each in so many encryptions
_STEPS = 1000
_RATE = 2e-3
_WIDTH = 32  # channels of all layers but the last
_FEATURES = 16  # channels of the map that is compared
_CHUNK = 256


@dataclass(frozen=True)
class TrainingSet:
    """Encryptions of public images.

    Attributes
    ----------
    size : float32 (n, channels, h, w)
        Absolute values, channels first.
    pair : int64 (n, 2)
        The two images that play the private ones.
    """

    size: Float32
    pair: Int64


def training_set(info: ReleaseInfo, public: npt.NDArray[np.uint8], seed: int = 0) -> TrainingSet:
    """Encrypt half of the public images with the help of the other half; needs no PyTorch.

    Parameters
    ----------
    info : ReleaseInfo
        Gives k and the bounds of the coefficients.
    public : uint8 (m, h, w, 3)
        Eight or more.
    seed : int
        Of the choice of images and of the encryption.

    Returns
    -------
    TrainingSet
        12 encryptions for each of the m // 2 images that play private.

    Raises
    ------
    InputError
        When there are too few images.
    """
    if len(public) < 8:
        raise InputError(f"n_public: {len(public)} public images are too few to train a network; 8 at least")
    chosen = np.random.default_rng(seed).permutation(len(public))
    half = len(public) // 2
    mixtures = encrypt(
        public[chosen[:half]],
        public[chosen[half:]],
        Mt19937Stream(seed),
        k=info.k,
        encryptions_per_image=_EPOCHS,
        max_coefficient=info.max_coefficient,
        min_private_sum=info.min_private_sum,
    )
    size = np.abs(mixtures.encryption).transpose(0, 3, 1, 2)
    return TrainingSet(np.ascontiguousarray(size), mixtures.index[:, :2].astype(np.int64))


def shares_image(first: Int64, second: Int64) -> npt.NDArray[np.bool_]:
    """Which encryptions of two sets share a private image.

    Parameters
    ----------
    first, second : int64 (m1, 2) and (m2, 2)
        Private images of each.

    Returns
    -------
    bool (m1, m2)

    Examples
    --------
    >>> shares_image(np.array([[0, 1], [2, 3]]), np.array([[1, 4], [0, 2]])).tolist()
    [[True, True], [False, True]]
    """
    shared: npt.NDArray[np.bool_] = (first[:, None, :, None] == second[None, :, None, :]).any(axis=(2, 3))
    return shared


def training_batch(pair: Int64, generator: np.random.Generator) -> Int64:
    """Rows for one step: some images, and for each of them a few encryptions that hold it.

    Parameters
    ----------
    pair : int64 (n, 2)
    generator : numpy.random.Generator

    Returns
    -------
    int64 (batch,)
        Distinct rows.
    """
    image = generator.permutation(int(pair.max()) + 1)[:_IMAGES]
    row = [generator.permutation(np.flatnonzero((pair == i).any(axis=1)))[:_EACH] for i in image]
    return np.unique(np.concatenate(row))


def require_torch() -> Any:
    """PyTorch, or one line that says how to get it.

    Raises
    ------
    InputError
        When it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise InputError(
            "similarity: network needs PyTorch, which is not installed; run pip install '.[network]', "
            "or use the similarity energy"
        ) from None
    return torch


def build_network(width: int = _WIDTH) -> Any:
    """The residual network: absolute values, channels first, to maps of features of half the height and width.

    Parameters
    ----------
    width : int
        Channels of the layers, a multiple of 8.

    Returns
    -------
    torch.nn.Module
    """
    torch = require_torch()
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[name-defined]
        """Two convolutions beside a shortcut."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.norm1 = nn.GroupNorm(8, width)
            self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.norm2 = nn.GroupNorm(8, width)

        def forward(self, x: Any) -> Any:
            y = torch.relu(self.norm1(self.first(x)))
            return torch.relu(x + self.norm2(self.second(y)))

    stem = nn.Conv2d(3, width, 5, 2, 2)
    return nn.Sequential(stem, nn.ReLU(), Block(), Block(), nn.Conv2d(width, _FEATURES, 1))


def _embed(network: Any, size: Any) -> Any:
    """Feature maps as rows of mean 0 and length 1."""
    feature = network(size).flatten(1)
    feature = feature - feature.mean(dim=1, keepdim=True)
    return feature / (feature.norm(dim=1, keepdim=True) + 1e-6)


def train_network(
    data: TrainingSet, *, steps: int = _STEPS, seed: int = 0, width: int = _WIDTH
) -> tuple[Any, list[float]]:
    """Train the network to tell pairs that share a private image from those that do not.

    Parameters
    ----------
    data : TrainingSet
    steps : int
    seed : int
        Of the first weights and the batches.
    width : int
        See `build_network`.

    Returns
    -------
    network : torch.nn.Module
    loss : list of float
        Mean logistic loss of each step, the two kinds of pairs weighing the same.
    """
    torch = require_torch()
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_network(width).to(device)
    scale = torch.nn.Parameter(torch.tensor([10.0, -2.0], device=device))
    optimiser = torch.optim.Adam([*network.parameters(), scale], lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    generator, loss = np.random.default_rng(seed), []
    for _ in progress(range(steps), desc="training the similarity", unit="step"):
        row = training_batch(data.pair, generator)
        size = data.size[row]
        if generator.integers(0, 2):
            size = size[:, :, :, ::-1]
        feature = _embed(network, torch.from_numpy(np.ascontiguousarray(size)).to(device))
        same = torch.from_numpy(shares_image(data.pair[row], data.pair[row])).to(device)
        other = ~torch.eye(len(row), dtype=torch.bool, device=device)
        logit = scale[0] * (feature @ feature.T) + scale[1]
        each = torch.nn.functional.softplus(torch.where(same, -logit, logit))
        value = (each[same & other].mean() + each[~same].mean()) / 2
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        loss.append(float(value.detach()))
    return network.eval(), loss


def save_weights(path: Path | str, network: Any) -> None:
    """Write weights as a plain ``.npz`` of arrays, without pickles."""
    arrays = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    temporary = Path(path).with_suffix(".part.npz")
    np.savez(temporary, **arrays)
    temporary.replace(path)


def load_weights(path: Path | str) -> Any:
    """Read what `save_weights` wrote.

    Raises
    ------
    InputError
        When the file is not such weights.
    """
    torch = require_torch()
    try:
        with np.load(path, allow_pickle=False) as file:
            network = build_network(len(file["0.bias"]))
            network.load_state_dict({name: torch.from_numpy(file[name]) for name in file.files})
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, zipfile.BadZipFile):
        raise InputError(f"{path}: holds no weights of this network; delete it to train anew") from None
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def network_similarity(release: Release, public: npt.NDArray[np.uint8]) -> Float32:
    """Similarity of all pairs of encryptions by the trained network.

    Parameters
    ----------
    release : Release
    public : uint8 (m, h, w, 3)
        Images to train on, unless ``INSTAHIDE_NB_NETWORK`` names a file of weights.

    Returns
    -------
    float32 (n, n)
    """
    torch = require_torch()
    weights = os.environ.get("INSTAHIDE_NB_NETWORK", "")
    if weights and Path(weights).exists():
        network = load_weights(weights)
    else:
        network, _ = train_network(training_set(release.info, public))
        if weights:
            save_weights(weights, network)
    device = next(network.parameters()).device
    size = np.ascontiguousarray(np.abs(release.encryption).transpose(0, 3, 1, 2))
    with torch.no_grad():
        part = [
            _embed(network, torch.from_numpy(size[low : low + _CHUNK]).to(device))
            for low in range(0, len(size), _CHUNK)
        ]
        feature = torch.cat(part)
        similar: Float32 = (feature @ feature.T).cpu().numpy()
    return similar
