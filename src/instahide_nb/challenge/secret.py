"""The secret half of a challenge: what the organiser keeps to make the release again and to score attacks.

Attacks never import this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, read_json
from instahide_nb.core.params import GenDataParams


@dataclass(frozen=True)
class Secret:
    """What the organiser keeps.

    Attributes
    ----------
    private : (N, h, w, 3) uint8 array
        The private images.
    private_label : (N,) int64 array
        Their classes.
    pair : (n, 2) int64 array
        The first two images of each encryption, indices into `private`.
    coefficient : (n, k) float32 array
        All coefficients.
    public : (M, h, w, 3) uint8 array
        The public images.
    public_index : (n, k - 2) int64 array
        The others of each encryption: indices into `public` (cross) or into `private` (inside).
    mask : (n, ceil(h*w*3/8)) uint8 array
        Packed signs, see :class:`instahide_nb.scheme.encryption.Mixtures`.
    info : dict
        ``parameters`` of gen_data, ``start`` of the stream (seed, states or key), ``class_names``.
    """

    private: npt.NDArray[np.uint8]
    private_label: npt.NDArray[np.int64]
    pair: npt.NDArray[np.int64]
    coefficient: npt.NDArray[np.float32]
    public: npt.NDArray[np.uint8]
    public_index: npt.NDArray[np.int64]
    mask: npt.NDArray[np.uint8]
    info: dict[str, Any]


SECRET_ARRAYS = {
    "private": (np.uint8, 4),
    "private_label": (np.int64, 1),
    "pair": (np.int64, 2),
    "coefficient": (np.float32, 2),
    "public": (np.uint8, 4),
    "public_index": (np.int64, 2),
    "mask": (np.uint8, 2),
}


def load_secret(folder: Path | str) -> Secret:
    """Load and check the secret half.

    Raises
    ------
    InputError
        When a file is missing or damaged, or the files do not fit each other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the secret/ folder of a run")
    arrays = {
        name: load_array(folder / f"{name}.npy", dtype=dtype, shape=(None,) * ndim)
        for name, (dtype, ndim) in SECRET_ARRAYS.items()
    }
    private, pair, label = arrays["private"], arrays["pair"], arrays["private_label"]
    info = _read_secret_json(folder / "secret.json")
    if private.shape[3] != 3 or len(private) == 0:
        raise InputError(f"{folder / 'private.npy'}: has shape {private.shape}; (n, h, w, 3) is expected")
    if pair.shape[1] != 2 or pair.size == 0 or pair.min() < 0 or pair.max() >= len(private):
        raise InputError(f"{folder / 'pair.npy'}: does not hold pairs of indices into private.npy")
    if len(label) != len(private):
        raise InputError(f"{folder / 'private_label.npy'}: {len(label)} labels for {len(private)} images")
    if label.min() < 0 or label.max() >= len(info["class_names"]):
        raise InputError(f"{folder / 'private_label.npy'}: holds classes that secret.json does not name")
    params = GenDataParams.from_mapping(info["parameters"])
    n = params.n_private * params.encryptions_per_image
    for name, shape in (
        ("pair", (n, 2)),
        ("coefficient", (n, params.k)),
        ("public_index", (n, params.k - 2)),
        ("mask", (n, -(-private[0].size // 8))),
    ):
        if arrays[name].shape != shape:
            raise InputError(f"{folder / name}.npy: has shape {arrays[name].shape}; {shape} is expected")
    return Secret(**arrays, info=info)


def _read_secret_json(path: Path) -> dict[str, Any]:
    info = read_json(path)
    for name, kind in (("parameters", dict), ("start", dict), ("class_names", list)):
        if not isinstance(info.get(name), kind):
            raise InputError(f"{path}: {name} is missing or not of its type; make the challenge again")
    parameters = info["parameters"]
    try:
        GenDataParams.from_mapping(parameters)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    drawn = "key" if parameters.get("rng") == "chacha20" else "states"
    if (drawn == "key" or parameters.get("seed") == "entropy") and not info["start"].get(drawn):
        # A new one would be drawn, and the release made again would differ for no visible reason.
        raise InputError(f"{path}: start has no {drawn}; the release cannot be made again without it")
    if not all(isinstance(name, str) for name in info["class_names"]):
        raise InputError(f"{path}: class_names must be text; make the challenge again")
    return info


def check_halves(release: Release, secret: Secret) -> None:
    """Refuse a release and a secret that are not the two halves of one challenge.

    Compared are their sizes and, in each row, whether the label names the class of the first private image. Labels may
    have been rounded before they were published, so that small coefficients vanish: one row in ten may differ.

    Raises
    ------
    InputError
        Says what does not fit.
    """
    n, image = len(release.encryption), release.encryption.shape[1:]
    if (len(secret.pair), secret.private.shape[1:]) != (n, image):
        raise InputError(
            f"secret: is of {len(secret.pair)} encryptions of shape {secret.private.shape[1:]}, the release of {n} of "
            f"shape {image}; name the two folders of one run"
        )
    first = secret.private_label[secret.pair[:, 0]]
    fits = first < release.label.shape[1]
    fits[fits] = release.label[fits, first[fits]] > 0
    if 10 * int(fits.sum()) < 9 * n:
        raise InputError(
            f"secret: the release's labels fit {int(fits.sum())} of {n} rows only; name the two folders of one run"
        )
