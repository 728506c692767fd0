"""The secret half of a challenge, with which the organiser makes the release again and scores attacks.

Attacks never import this module.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.challenge.release import Release, half_of_run
from instahide_nb.core.arrays import Float32, Int8, Int64, UInt8
from instahide_nb.core.errors import InputError, naming
from instahide_nb.core.files import load_array, read_json
from instahide_nb.core.params import GenDataParams
from instahide_nb.scheme.encryption import pixel_values
from instahide_nb.scheme.views import all_views, apply_views

_ROUNDING = 0.05  # largest mean difference of |x|: a release may have been rounded


@dataclass(frozen=True)
class Secret:
    """The arrays of ``secret/`` and the content of ``secret.json``."""

    private: UInt8  # (N, h, w, 3): the private images
    private_label: Int64  # (N,): their classes
    pair: Int64  # (n, p): the private images of each encryption, indices into `private`
    coefficient: Float32  # (n, k): all coefficients
    public: UInt8  # (M, h, w, 3): the public images
    public_index: Int64  # (n, k-p): those of each encryption, indices into `public`
    mask: UInt8  # (n, ceil(h*w*3/8)): packed signs, see scheme.encryption.Mixtures
    info: dict[str, Any]  # parameters of gen_data, start of the stream (seed, states or key), class_names
    view: Int8 | None = None  # (n, p, 3): views of the private images, see scheme.views

    @property
    def augment(self) -> str:
        """The parameter `augment`."""
        return str(self.info["parameters"].get("augment", "none"))

    def inside(self, row: int) -> UInt8:
        """The images mixed in one encryption, in the order of its coefficients; (k, h, w, 3)."""
        private = self.private[self.pair[row]]
        if self.view is not None:
            private = apply_views(private, self.view[row])
        return np.concatenate([private, self.public[self.public_index[row]]])

    def mixed(self) -> tuple[UInt8, Int64]:
        """All different views of private images that were mixed, (m, h, w, 3), and those of each row, (n, p)."""
        if self.view is None:
            return self.private, self.pair
        named = np.concatenate([self.pair[:, :, None], self.view], axis=2).reshape(-1, 4)
        different, place = np.unique(named, axis=0, return_inverse=True)
        return apply_views(self.private[different[:, 0]], different[:, 1:]), place.reshape(self.pair.shape)


SECRET_ARRAYS = tuple(field.name for field in fields(Secret) if field.name != "info")


def load_secret(folder: Path | str) -> Secret:
    """Load the secret half; an InputError if a file is missing or damaged, or if files do not fit each other."""
    folder = half_of_run(folder, "secret")
    info, params = _read_secret_json(folder / "secret.json")

    def load(name: str, dtype: type[np.generic], *shape: int | None) -> npt.NDArray[Any]:
        return load_array(folder / f"{name}.npy", dtype=dtype, shape=shape)

    rows = params.n_private * params.encryptions_per_image
    private = load("private", np.uint8, params.n_private, None, None, 3)
    secret = Secret(
        private=private,
        private_label=load("private_label", np.int64, params.n_private),
        pair=load("pair", np.int64, rows, params.private_per_row),
        coefficient=load("coefficient", np.float32, rows, params.k),
        public=load("public", np.uint8, None, *private.shape[1:]),
        public_index=load("public_index", np.int64, rows, params.k - params.private_per_row),
        mask=load("mask", np.uint8, rows, -(-private[0].size // 8)),
        info=info,
        view=load("view", np.int8, rows, params.private_per_row, 3) if params.augment != "none" else None,
    )
    if secret.view is not None:
        allowed = all_views(params.augment)
        if (secret.view < allowed.min(axis=0)).any() or (secret.view > allowed.max(axis=0)).any():
            impossible = f"contains views impossible with augment {params.augment}"
            raise InputError(f"{folder}/view.npy: {impossible}; make the challenge again")
    counts = {"pair": private, "private_label": info["class_names"], "public_index": secret.public}
    for name, count in ((name, len(of)) for name, of in counts.items()):
        index = getattr(secret, name)
        if index.size and (index.min() < 0 or index.max() >= count):
            raise InputError(f"{folder / name}.npy: has values outside 0 .. {count - 1}; make the challenge again")
    return secret


def _read_secret_json(path: Path) -> tuple[dict[str, Any], GenDataParams]:
    info = read_json(path)
    for name, kind in (("parameters", dict), ("start", dict), ("class_names", list)):
        if not isinstance(info.get(name), kind):
            raise InputError(f"{path}: {name} is missing or has the wrong type; make the challenge again")
    if not all(isinstance(name, str) for name in info["class_names"]):
        raise InputError(f"{path}: class_names must be text; make the challenge again")
    with naming(path):
        params = GenDataParams(**info["parameters"])
    entropy = params.seed == "entropy" and params.rng != "chacha20"
    drawn = {"key": params.rng != "mt19937", "states": entropy, "views": entropy and params.augment != "none"}
    for name, needed in drawn.items():
        if needed and not info["start"].get(name):
            # Otherwise a new one would be drawn, and the release made again would differ.
            raise InputError(f"{path}: start has no {name}; the release cannot be rebuilt without it")
    return info, params


def check_halves(release: Release, secret: Secret) -> None:
    """Raise an InputError unless shapes agree and the secret reproduces |x| in 50 rows, up to rounding."""
    n, image = len(release.encryption), release.encryption.shape[1:]
    rows, shape = len(secret.pair), secret.private.shape[1:]
    if (rows, shape) != (n, image):
        raise InputError(
            f"secret: has {rows} encryptions of shape {shape}, but the release has {n} of shape {image}; "
            "give the two folders of one run"
        )
    some, fits = range(0, n, max(1, n // 50)), 0
    for row in some:
        mixture = np.einsum("k,khwc->hwc", secret.coefficient[row], pixel_values(secret.inside(row)))
        fits += bool(np.abs(np.abs(mixture) - np.abs(release.encryption[row])).mean() < _ROUNDING)
    if 10 * fits < 9 * len(some):
        raise InputError(
            f"secret: its images reproduce only {fits} of {len(some)} encryptions; give the two folders of one run"
        )
