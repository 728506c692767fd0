"""Small challenges of smooth synthetic images for the tests of the generator attacks, and estimates of their signs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.scheme.encryption import Mixtures, class_coefficients, encrypt
from instahide_nb.scheme.mersenne import low_bits, step_back
from instahide_nb.scheme.streams import Mt19937Stream, Stream, open_stream

CLASSES = 5


@dataclass(frozen=True)
class Synthetic:
    """A release, and what it was made of."""

    release: Release
    private: np.ndarray
    public: np.ndarray
    mixtures: Mixtures


def smooth_images(count: int, size: int, seed: int) -> np.ndarray:
    """Images whose neighbouring pixels mostly have the same sign, as those of photographs have."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 4, 4, 3)) + rng.normal(size=(count, 1, 1, 3))
    at = np.linspace(0, 3, size)
    low = np.minimum(at.astype(int), 2)
    share = (at - low)[None, :, None, None]
    rows = coarse[:, low] * (1 - share) + coarse[:, low + 1] * share
    share = (at - low)[None, None, :, None]
    fine = rows[:, :, low] * (1 - share) + rows[:, :, low + 1] * share
    return np.clip(np.rint(128 + 60 * fine + rng.normal(size=fine.shape) * 4), 0, 255).astype(np.uint8)


def make(
    *,
    seed: int | str = 0,
    rng: str = "mt19937",
    scheme: str = "cross",
    n_private: int = 20,
    epochs: int = 20,
    k: int = 4,
    n_public: int = 60,
    size: int = 16,
    extra_words: tuple[int, ...] = (),
    stream: Stream | None = None,
    **info: Any,
) -> Synthetic:
    """Make a challenge; `extra_words` are drawn before the epochs, in turn."""
    private, public = smooth_images(n_private, size, 1), smooth_images(n_public, size, 2)
    stream = stream or open_stream(rng, seed=seed, key="" if rng == "mt19937" else "11" * 32, states=None)
    about = ReleaseInfo(
        scheme=scheme,
        rng=rng,
        k=k,
        n_private=n_private,
        encryptions_per_image=epochs,
        n_public=n_public if scheme == "cross" else 0,
        **{name: info[name] for name in ("private_per_mix", "public_once") if name in info},
    )
    together = 1 if extra_words else epochs
    parts = []
    for e in range(epochs // together):
        if extra_words:
            assert isinstance(stream, Mt19937Stream)
            stream.words(extra_words[e % len(extra_words)])
        parts.append(encrypt(private, public, stream, about.changed(encryptions_per_image=together)))
    mixtures = Mixtures(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("encryption", "index", "weight", "mask"))
    )
    places = about.private_per_row
    classes = np.arange(n_private) % CLASSES
    label = class_coefficients(mixtures.weight[:, :places], mixtures.index[:, :places], classes, CLASSES)
    if info.get("labels") == "none":
        label = None
    return Synthetic(Release(mixtures.encryption, label, about.changed(**info)), private, public, mixtures)


def solver_that_knows(*windows: np.ndarray) -> Any:
    """What elimination finds, without elimination: a window that makes all bits of a system, else nothing."""

    def solve(words: np.ndarray, bits: np.ndarray, differences: bool) -> np.ndarray | None:
        for window in windows:
            low = low_bits(window, 0, int(words[-1]) + 2)
            made = low[words] ^ low[words + 1] if differences else low[words]
            if np.array_equal(made, bits):
                return window
        return None

    return solve


def later(window: np.ndarray, words: int) -> np.ndarray:
    """The window after so many words."""
    generator = np.random.RandomState()
    generator.set_state(("MT19937", window, 624))
    generator.randint(0, 2**32, -(-words // 624) * 624, np.uint32)
    return step_back(generator.get_state()[1].astype(np.uint32), -words % 624)


def positive(made: Synthetic) -> np.ndarray:
    """The true masks as (n, h*w*3) bool."""
    size = made.release.encryption[0].size
    return np.unpackbits(made.mixtures.mask, axis=1)[:, :size].astype(bool)


def estimated_signs(made: Synthetic, *, wrong: float = 0.1, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Encryptions with most of their mask lifted, a prediction and a variance: wrong where values are small.

    `wrong` is the noise of the prediction; the larger a value, the surer its sign.
    """
    shape = made.release.encryption.shape
    lifted = np.where(positive(made).reshape(shape), made.release.encryption, -made.release.encryption)
    rng = np.random.default_rng(seed)
    predicted = (lifted + rng.normal(size=shape) * wrong).astype(np.float32)
    signed = (np.abs(lifted) * np.clip(predicted / 0.2, -1, 1)).astype(np.float32)
    return signed, predicted, np.full(len(lifted), 0.05, np.float32)
