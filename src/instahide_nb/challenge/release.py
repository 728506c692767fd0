"""The public half of a challenge: what an attacker is given.

``release/`` holds ``encryption.npy``, ``label.npy`` and ``release.json``. A folder with only the two arrays, as the
2020 challenge published them, is a release too. Nothing here can open the secret half.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, make_folder, read_json, save_array, sha256_file, write_json
from instahide_nb.core.params import check_constraints, private_per_row
from instahide_nb.scheme.streams import STREAM_VERSION

__all__ = ["FORMAT_VERSION", "Release", "ReleaseInfo", "load_release", "save_release"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ReleaseInfo:
    """Every parameter of a challenge that is public; the defaults are those of the 2020 challenge.

    Attributes
    ----------
    scheme, rng, k, n_private, encryptions_per_image, max_coefficient, min_private_sum, n_public, min_keypoints
        As in :class:`instahide_nb.core.params.GenDataParams`.
    private_source, public_source : str
        The kind of source: a keyword, "npz" or "folder"; never a path.
    class_names : tuple of str
        Names of the label's columns; empty when they have none.
    format, stream : int
        Versions of the files' format and of the random stream.
    """

    scheme: str = "cross"
    rng: str = "mt19937"
    k: int = 6
    n_private: int = 100
    encryptions_per_image: int = 50
    max_coefficient: float = 0.65
    min_private_sum: float = 0.30
    n_public: int = 0
    min_keypoints: int = 40
    private_source: str = "unknown"
    public_source: str = "unknown"
    class_names: tuple[str, ...] = ()
    format: int = FORMAT_VERSION
    stream: int = STREAM_VERSION

    @property
    def private_per_row(self) -> int:
        """p: how many of the k images of an encryption are private."""
        return private_per_row(self.scheme, self.k)


@dataclass(frozen=True)
class Release:
    """Encryptions, their labels and the public parameters.

    Attributes
    ----------
    encryption : (n, h, w, 3) float32 array
        Values in [-1, 1].
    label : (n, classes) float32 array
        Per class, the sum of the coefficients of the private images of that class.
    info : ReleaseInfo
    """

    encryption: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    info: ReleaseInfo


def save_release(folder: Path | str, release: Release) -> None:
    """Write a release; ``release.json``, with the sha256 of both files, comes last."""
    folder = make_folder(folder)
    arrays = {"encryption": release.encryption, "label": release.label}
    for name, array in arrays.items():
        save_array(folder / f"{name}.npy", array)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    digests = {f"{name}.npy": sha256_file(folder / f"{name}.npy") for name in arrays}
    content = asdict(release.info) | {"class_names": list(release.info.class_names)}
    write_json(folder / "release.json", content | {"shapes": shapes, "sha256": digests})


def load_release(folder: Path | str) -> Release:
    """Load and check a release.

    Parameters
    ----------
    folder : Path or str
        With ``encryption.npy`` and ``label.npy`` of float32 or float64, and ``release.json`` if there is one. Without
        it the encryptions may also be (n, 3, h, w).

    Raises
    ------
    InputError
        When a file is missing, damaged, not what ``release.json`` says, or does not fit the other.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the release/ folder of a run")
    encryption = load_array(folder / "encryption.npy", shape=(None, None, None, None))
    label = load_array(folder / "label.npy", shape=(None, None))
    described = (folder / "release.json").exists()
    if not described and encryption.shape[1] == 3 and encryption.shape[3] != 3:
        encryption = np.ascontiguousarray(encryption.transpose(0, 2, 3, 1))
    _check_array(folder / "encryption.npy", encryption, -1.0)
    _check_array(folder / "label.npy", label, 0.0)
    if encryption.shape[3] != 3:
        raise InputError(
            f"{folder / 'encryption.npy'}: has shape {encryption.shape}; (n, h, w, 3) is expected"
        )
    if len(encryption) != len(label):
        raise InputError(
            f"{folder / 'label.npy'}: {len(label)} labels for {len(encryption)} encryptions; they must match"
        )
    if described:
        info = _read_info(folder, len(encryption))
    else:
        info = ReleaseInfo(encryptions_per_image=max(1, len(encryption) // ReleaseInfo.n_private))
    if info.class_names and len(info.class_names) != label.shape[1]:
        raise InputError(
            f"{folder / 'release.json'}: names {len(info.class_names)} classes, label.npy has {label.shape[1]}"
        )
    return Release(encryption.astype(np.float32, copy=False), label.astype(np.float32, copy=False), info)


def _check_array(path: Path, array: npt.NDArray[Any], low: float) -> None:
    if array.dtype not in (np.float32, np.float64):
        raise InputError(f"{path}: holds {array.dtype}; float32 or float64 is expected")
    if array.size == 0:
        raise InputError(f"{path}: holds no values (shape {array.shape}); make or fetch it again")
    # A little beyond the range is what rounding to a few decimals leaves.
    if not (array.min() >= low - 1e-3 and array.max() <= 1 + 1e-3):
        raise InputError(f"{path}: has values outside [{low:g}, 1] or that are not numbers")


def _read_info(folder: Path, rows: int) -> ReleaseInfo:
    path = folder / "release.json"
    content = read_json(path)
    known: dict[str, Any] = {}
    for f in fields(ReleaseInfo):
        if f.name not in content:
            raise InputError(f"{path}: {f.name} is missing; make or fetch it again")
        value = content[f.name]
        kind = {"int": int, "float": (int, float), "str": str}.get(cast(str, f.type), list)
        if not isinstance(value, cast(Any, kind)) or isinstance(value, bool):
            raise InputError(
                f"{path}: {f.name} is {value!r}, which is not of its type; make or fetch it again"
            )
        known[f.name] = tuple(map(str, value)) if isinstance(value, list) else value
    if known["format"] != FORMAT_VERSION:
        raise InputError(f"{path}: format {known['format']}; this version reads {FORMAT_VERSION}")
    try:
        check_constraints(*(known[name] for name in ("scheme", "k", "max_coefficient", "min_private_sum")))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if known["n_private"] < 2 or known["n_private"] * known["encryptions_per_image"] != rows:
        raise InputError(
            f"{path}: n_private x encryptions_per_image is {known['n_private']} x "
            f"{known['encryptions_per_image']}, but encryption.npy has {rows} rows; make or fetch it again"
        )
    digests = content.get("sha256")
    for name in ("encryption.npy", "label.npy"):
        if not isinstance(digests, dict) or sha256_file(folder / name) != digests.get(name):
            raise InputError(
                f"{folder / name}: its sha256 is not the one in release.json; make or fetch it again"
            )
    return ReleaseInfo(**known)
