"""The public half of a challenge: what an attacker is given.

``release/`` holds ``encryption.npy``, ``label.npy`` and ``release.json``. A folder with only the two arrays, as the
2020 challenge published them, is a release too; what ``release.json`` leaves out takes the 2020 challenge's value.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, make_folder, read_json, save_array, sha256_file, write_json
from instahide_nb.core.params import check_constraints, private_per_row
from instahide_nb.scheme.streams import STREAM_VERSION

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ReleaseInfo:
    """Every public parameter of a challenge; the defaults are those of the 2020 challenge.

    They are those of :class:`instahide_nb.core.params.GenDataParams`, but of a source only its kind is named, never a
    path. ``class_names`` names the columns of the labels and may be empty.
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
    format: int = FORMAT_VERSION  # of the files
    stream: int = STREAM_VERSION  # of the random numbers

    @property
    def private_per_row(self) -> int:
        """p: how many of the k images of an encryption are private."""
        return private_per_row(self.scheme, self.k)


@dataclass(frozen=True)
class Release:
    """Encryptions, their labels and the public parameters."""

    encryption: npt.NDArray[np.float32]  # (n, h, w, 3), in [-1, 1]
    label: npt.NDArray[
        np.float32
    ]  # (n, classes): per class, the sum of the coefficients of its private images
    info: ReleaseInfo


def save_release(folder: Path | str, release: Release) -> None:
    """Write a release; ``release.json``, with the shapes and sha256 of both arrays, comes last."""
    folder = make_folder(folder)
    arrays = {"encryption": release.encryption, "label": release.label}
    for name, array in arrays.items():
        save_array(folder / f"{name}.npy", array)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    digests = {f"{name}.npy": sha256_file(folder / f"{name}.npy") for name in arrays}
    write_json(folder / "release.json", asdict(release.info) | {"shapes": shapes, "sha256": digests})


def load_release(folder: Path | str) -> Release:
    """Load ``encryption.npy`` and ``label.npy`` of float32 or float64, and ``release.json`` if there is one.

    Without it the encryptions may also be (n, 3, h, w). An InputError says that a file is missing, damaged, or not
    what ``release.json`` or the other array says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the release/ folder of a run")
    files = folder / "encryption.npy", folder / "label.npy"
    encryption, label = load_array(files[0], shape=(None,) * 4), load_array(files[1], shape=(None, None))
    described = (folder / "release.json").exists()
    if not described and encryption.shape[1] == 3 and encryption.shape[3] != 3:
        encryption = np.ascontiguousarray(encryption.transpose(0, 2, 3, 1))
    for file, array, low in zip(files, (encryption, label), (-1, 0), strict=True):
        if array.dtype not in (np.float32, np.float64):
            raise InputError(f"{file}: holds {array.dtype}; float32 or float64 is expected")
        if array.size == 0:
            raise InputError(f"{file}: holds no values (shape {array.shape}); make or fetch it again")
        # Rounding to a few decimals may lead a little out of the range.
        if not (array.min() >= low - 1e-3 and array.max() <= 1 + 1e-3):
            raise InputError(f"{file}: has values outside [{low}, 1] or that are not numbers")
    if encryption.shape[3] != 3:
        raise InputError(f"{files[0]}: has shape {encryption.shape}; (n, h, w, 3) is expected")
    if len(encryption) != len(label):
        raise InputError(
            f"{files[1]}: {len(label)} labels for {len(encryption)} encryptions; they must match"
        )
    info = _read_info(folder, len(encryption)) if described else _with_epochs(ReleaseInfo(), len(encryption))
    names, columns = len(info.class_names), label.shape[1]
    if names not in (0, columns):
        raise InputError(f"{folder / 'release.json'}: names {names} classes, label.npy has {columns}")
    return Release(encryption.astype(np.float32, copy=False), label.astype(np.float32, copy=False), info)


def _with_epochs(info: ReleaseInfo, rows: int) -> ReleaseInfo:
    """The number of epochs from the number of rows."""
    return replace(info, encryptions_per_image=max(1, rows // max(1, info.n_private)))


def _read_info(folder: Path, rows: int) -> ReleaseInfo:
    path = folder / "release.json"
    content = read_json(path)
    try:
        info = TypeAdapter(ReleaseInfo).validate_json(json.dumps(content), strict=True)
        check_constraints(info.scheme, info.k, info.max_coefficient, info.min_private_sum)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {place}: {first['msg']}, found {first['input']!r}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if info.format != FORMAT_VERSION:
        raise InputError(f"{path}: format {info.format}; this version reads {FORMAT_VERSION}")
    if "encryptions_per_image" not in content:
        info = _with_epochs(info, rows)
    elif info.n_private * info.encryptions_per_image != rows:
        raise InputError(
            f"{path}: n_private x encryptions_per_image is {info.n_private} x {info.encryptions_per_image}, "
            f"but encryption.npy has {rows} rows"
        )
    if info.n_private < 2:
        raise InputError(f"{path}: n_private: {info.n_private} is too small; give 2 or more")
    digests = content.get("sha256", {})
    for name in ("encryption.npy", "label.npy") if digests != {} else ():
        if not isinstance(digests, dict) or sha256_file(folder / name) != digests.get(name):
            raise InputError(f"{folder / name}: its sha256 is not the one in release.json; fetch it again")
    return info
