"""Training of a similarity: a small residual network, in place of the published Wide ResNet 28-6.

The published network takes the absolute values of two encryptions together and says whether they share a private
image, so it runs once for each of 12.5 million pairs. This one turns each encryption into a map of features
(`instahide_nb.attacks.carlini.feature_network`), so it runs 5,000 times. It is trained on encryptions that are made of
the attacker's public images. PyTorch (``pip install '.[network]'``) is needed, a GPU is used where there is one, and
unlike all else here the result is not promised to be the same to the last bit on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.carlini.feature_network import FEATURES, GROUPS
from instahide_nb.challenge.release import ReleaseInfo
from instahide_nb.core.errors import InputError
from instahide_nb.core.progress import progress
from instahide_nb.scheme.encryption import encrypt
from instahide_nb.scheme.streams import Mt19937Stream

__all__ = [
    "TrainingSet",
    "build_network",
    "flat_weights",
    "require_torch",
    "shares_image",
    "train_network",
    "train_weights",
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
    # In reverse: what plays private in the attacker's simulated challenge is not learned by heart here.
    chosen = np.random.default_rng(seed).permutation(len(public))[::-1]
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
            self.norm1 = nn.GroupNorm(GROUPS, width)
            self.second = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.norm2 = nn.GroupNorm(GROUPS, width)

        def forward(self, x: Any) -> Any:
            y = torch.relu(self.norm1(self.first(x)))
            return torch.relu(x + self.norm2(self.second(y)))

    stem = nn.Conv2d(3, width, 5, 2, 2)
    return nn.Sequential(stem, nn.ReLU(), Block(), Block(), nn.Conv2d(width, FEATURES, 1))


def _embed(network: Any, size: Any) -> Any:
    """Feature maps as rows of mean 0 and length 1."""
    feature = network(size).flatten(1)
    feature = feature - feature.mean(dim=1, keepdim=True)
    return feature / (feature.norm(dim=1, keepdim=True) + 1e-6)


def train_network(
    data: TrainingSet, *, steps: int, seed: int = 0, width: int = _WIDTH
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


def flat_weights(network: Any) -> Float32:
    """All weights one after the other, in the order of `feature_network.weight_shapes`."""
    return np.concatenate([value.detach().cpu().numpy().ravel() for value in network.state_dict().values()])


def train_weights(info: ReleaseInfo, public: npt.NDArray[np.uint8]) -> Float32:
    """Train a network for releases of this kind.

    Parameters
    ----------
    info : ReleaseInfo
        Gives k and the bounds of the coefficients.
    public : uint8 (m, h, w, 3)

    Returns
    -------
    float32 (weights,)
        See `flat_weights`.
    """
    require_torch()  # before the work of making a training set
    network, _ = train_network(training_set(info, public), steps=_STEPS)
    return flat_weights(network)
