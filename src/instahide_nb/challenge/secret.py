"""The secret half of a challenge: what the organiser keeps to make the release again and to score attacks.

Attacks never import this module.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
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
    """What the organiser keeps: the arrays of ``secret/`` and ``secret.json``."""

    private: npt.NDArray[np.uint8]  # (N, h, w, 3): the private images
    private_label: npt.NDArray[np.int64]  # (N,): their classes
    pair: npt.NDArray[np.int64]  # (n, 2): the first two images of each encryption, indices into `private`
    coefficient: npt.NDArray[np.float32]  # (n, k): all coefficients
    public: npt.NDArray[np.uint8]  # (M, h, w, 3): the public images
    public_index: npt.NDArray[
        np.int64
    ]  # (n, k-2): the others, indices into `public` (inside: into `private`)
    mask: npt.NDArray[np.uint8]  # (n, ceil(h*w*3/8)): packed signs, see scheme.encryption.Mixtures
    info: dict[str, Any]  # parameters of gen_data, start of the stream (seed, states or key), class_names


SECRET_ARRAYS = tuple(field.name for field in fields(Secret) if field.name != "info")


def load_secret(folder: Path | str) -> Secret:
    """Load the secret half; an InputError if a file is missing, damaged or does not fit the others."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the secret/ folder of a run")
    info, params = _read_secret_json(folder / "secret.json")

    def load(name: str, dtype: type[np.generic], *shape: int | None) -> npt.NDArray[Any]:
        return load_array(folder / f"{name}.npy", dtype=dtype, shape=shape)

    rows = params.n_private * params.encryptions_per_image
    private = load("private", np.uint8, params.n_private, None, None, 3)
    secret = Secret(
        private=private,
        private_label=load("private_label", np.int64, params.n_private),
        pair=load("pair", np.int64, rows, 2),
        coefficient=load("coefficient", np.float32, rows, params.k),
        public=load("public", np.uint8, None, None, None, 3),
        public_index=load("public_index", np.int64, rows, params.k - 2),
        mask=load("mask", np.uint8, rows, -(-private[0].size // 8)),
        info=info,
    )
    for name, count in (("pair", len(private)), ("private_label", len(info["class_names"]))):
        index = getattr(secret, name)
        if index.min() < 0 or index.max() >= count:
            raise InputError(
                f"{folder / name}.npy: has values outside 0 .. {count - 1}; make the challenge again"
            )
    return secret


def _read_secret_json(path: Path) -> tuple[dict[str, Any], GenDataParams]:
    info = read_json(path)
    for name, kind in (("parameters", dict), ("start", dict), ("class_names", list)):
        if not isinstance(info.get(name), kind):
            raise InputError(f"{path}: {name} is missing or not of its type; make the challenge again")
    if not all(isinstance(name, str) for name in info["class_names"]):
        raise InputError(f"{path}: class_names must be text; make the challenge again")
    try:
        params = GenDataParams(**info["parameters"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    drawn = "key" if params.rng == "chacha20" else "states" if params.seed == "entropy" else "seed"
    if drawn != "seed" and not info["start"].get(drawn):
        # A new one would be drawn, and the release made again would differ for no visible reason.
        raise InputError(f"{path}: start has no {drawn}; the release cannot be made again without it")
    return info, params


def check_halves(release: Release, secret: Secret) -> None:
    """Raise an InputError unless a release and a secret are the two halves of one challenge.

    Sizes must agree, and labels must name the class of the first private image. Rounded labels lose small
    coefficients, so one row in ten may differ.
    """
    n, image = len(release.encryption), release.encryption.shape[1:]
    if (len(secret.pair), secret.private.shape[1:]) != (n, image):
        raise InputError(
            f"secret: has {len(secret.pair)} encryptions of shape {secret.private.shape[1:]}, the release {n} of "
            f"shape {image}; name the two folders of one run"
        )
    first = secret.private_label[secret.pair[:, 0]]
    fits = first < release.label.shape[1]
    fits[fits] = release.label[fits, first[fits]] > 0
    if 10 * int(fits.sum()) < 9 * n:
        raise InputError(
            f"secret: the release's labels fit {int(fits.sum())} of {n} rows only; name the two folders of one run"
        )
