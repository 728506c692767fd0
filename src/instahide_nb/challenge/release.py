"""The release, the public half of a challenge: what an attacker is given.

``release/`` holds ``encryption.npy``, ``label.npy`` (unless labels are "none") and ``release.json``. The arrays alone,
as the 2020 challenge published them, are a release too. Fields that ``release.json`` lacks have the values of 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from instahide_nb.core.arrays import Float32, Floats
from instahide_nb.core.errors import InputError, naming
from instahide_nb.core.files import load_array, make_folder, read_json, save_array, sha256_file, write_json
from instahide_nb.core.params import ChallengeParams
from instahide_nb.scheme.streams import STREAM_VERSION


class ReleaseInfo(ChallengeParams):
    """Every public parameter of a challenge; the defaults are those of the 2020 challenge.

    Of a source only its kind is named, never a path. ``class_names`` names the columns of the labels and may be empty.
    """

    model_config = ConfigDict(extra="ignore")  # as release.json also holds shapes and hashes

    n_private: Annotated[int, Field(ge=2)] = 100
    k: int = 6
    n_public: Annotated[int, Field(ge=0)] = 0
    private_source: str = "unknown"
    public_source: str = "unknown"
    class_names: Annotated[tuple[str, ...], Field(strict=False)] = ()  # JSON has lists only
    format: Literal[1] = 1  # of the files
    stream: int = STREAM_VERSION  # of the random numbers


@dataclass(frozen=True)
class Release:
    """Encryptions, their labels and the public parameters."""

    encryption: Float32  # (n, h, w, 3), in [-1, 1]
    # (n, classes): per class, the sum of the coefficients of its private images, or 1 where it occurs
    label: Float32 | None
    info: ReleaseInfo
    assumed: tuple[str, ...] = ()  # those of scheme, k and n_private that release.json lacks
    estimated: bool = False  # whether n_private was estimated from the encryptions

    @property
    def shown(self) -> Float32:
        """The labels, if they show coefficients; otherwise an InputError."""
        if self.label is None or self.info.labels != "coefficients":
            raise InputError(f"labels: coefficients are needed; this release has {self.info.labels!r}")
        return self.label

    def assumptions(self) -> str:
        """The parameters that were assumed or estimated, in one line; empty if there are none."""
        shown = ", ".join(f"{name} {getattr(self.info, name)}" for name in self.assumed)
        parts = [f"assumed, as in the challenge of 2020: {shown}"] if shown else []
        parts += [f"estimated from the encryptions: n_private {self.info.n_private}"] * self.estimated
        return "; ".join(parts)

    def with_images(self, n_private: int) -> Release:
        """The same release with an estimated number of private images."""
        per_image = len(self.encryption) // n_private
        info = self.info.changed(n_private=n_private, encryptions_per_image=per_image)
        assumed = tuple(name for name in self.assumed if name != "n_private")
        return replace(self, info=info, assumed=assumed, estimated=True)


def save_release(folder: Path | str, release: Release) -> None:
    """Write a release; ``release.json``, with the shapes and sha256 of the arrays, comes last."""
    folder = make_folder(folder)
    (folder / "label.npy").unlink(missing_ok=True)
    both = {"encryption": release.encryption, "label": release.label}
    arrays = {name: array for name, array in both.items() if array is not None}
    for name, array in arrays.items():
        save_array(folder / f"{name}.npy", array)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    digests = {f"{name}.npy": sha256_file(folder / f"{name}.npy") for name in arrays}
    write_json(folder / "release.json", release.info.as_dict() | {"shapes": shapes, "sha256": digests})


def half_of_run(folder: Path | str, name: str) -> Path:
    """The folder of a half of a challenge, "release" or "secret"; an InputError if it is not one."""
    folder = Path(folder)
    if (folder / name).is_dir():
        raise InputError(f"{folder}: is the folder of a run; give {folder / name}")
    if not folder.is_dir():
        raise InputError(f"{folder.absolute()}: no such folder; give the {name}/ folder of a run")
    return folder


def load_release(folder: Path | str) -> Release:
    """Load ``encryption.npy`` and ``label.npy`` of float32 or float64, and ``release.json`` if there is one.

    Without it the encryptions may also be (n, 3, h, w), and without ``label.npy`` there are no labels. An InputError
    says that a file is missing, damaged, or not what ``release.json`` or the other array says.
    """
    folder = half_of_run(folder, "release")
    path = folder / "release.json"
    said = read_json(path) if path.exists() else {}
    arrays: dict[str, Floats] = {}
    for name, axes, low in (("encryption", "(n, h, w, 3)", -1), ("label", "(n, classes)", 0)):
        file = folder / f"{name}.npy"
        if name == "label" and (said.get("labels") == "none" or not ("labels" in said or file.exists())):
            continue
        if name == "label" and not file.exists():
            raise InputError(f"{file}: is missing; fetch it, or set labels to none in release.json")
        array = load_array(file)
        if array.dtype not in (np.float32, np.float64):
            raise InputError(f"{file}: holds {array.dtype}; float32 or float64 {axes} is expected")
        if not said and array.ndim == 4 and array.shape[1] == 3 != array.shape[3]:
            array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        if array.ndim != axes.count(",") + 1 or (name == "encryption" and array.shape[3] != 3):
            raise InputError(f"{file}: has shape {array.shape}; {axes} is expected")
        if array.size == 0:
            raise InputError(f"{file}: holds no values (shape {array.shape}); make or fetch it again")
        # Values rounded to a few decimals may be a little outside.
        if not (array.min() >= low - 1e-3 and array.max() <= 1 + 1e-3):
            raise InputError(f"{file}: has values outside [{low}, 1] or that are not numbers")
        arrays[name] = array.astype(np.float32, copy=False)
    encryption, label = arrays["encryption"], arrays.get("label")
    if label is not None and len(encryption) != len(label):
        raise InputError(f"{folder}/label.npy: {len(label)} labels for {len(encryption)} encryptions; they must match")
    info = _read_info(path, said, len(encryption))
    if "labels" not in said:
        whole = label is not None and bool(np.isin(label, (0, 1)).all())
        info = info.changed(labels="none" if label is None else "classes" if whole else "coefficients")
    assumed = tuple(name for name in ("scheme", "k", "n_private") if name not in said)
    release = Release(encryption, label, info, assumed)
    if fault := _fault(release):
        raise InputError(f"{folder}/{fault}")
    return release


def _fault(release: Release) -> str | None:
    """Why a release of these parameters cannot have these arrays, beginning with the file; None if it can."""
    encryption, label, info, p = release.encryption, release.label, release.info, release.info.private_per_row
    if info.scheme != "mixup" and encryption.min() >= 0:
        return (
            "encryption.npy: no value is negative, but a mask makes about half of the values negative; "
            "values in [-1, 1] are expected (or set scheme to mixup in release.json)"
        )
    if label is None:
        return None
    if len(info.class_names) not in (0, label.shape[1]):
        return f"release.json: names {len(info.class_names)} classes, label.npy has {label.shape[1]}"
    shown = (label > 0).sum(axis=1)
    if shown.max() > p:
        return (
            f"label.npy: row {shown.argmax()} shows {shown.max()} classes, but an encryption contains {p} "
            "private images; correct scheme, k or private_per_mix in release.json"
        )
    if info.labels == "classes" and not np.isin(label, (0, 1)).all():
        return "label.npy: labels that name classes must be 0 or 1"
    return None


def _read_info(path: Path, said: dict[str, Any], rows: int) -> ReleaseInfo:
    """The content `said` of a release.json, checked against the `rows` of encryption.npy."""
    with naming(path):
        info = ReleaseInfo(**said)
        if info.n_private > rows:
            raise InputError(
                f"n_private: {info.n_private} private images are more than the {rows} rows of encryption.npy; "
                "give the number of private images"
            )
        epochs = info.encryptions_per_image if "encryptions_per_image" in said else rows // info.n_private
        if "encryptions_per_image" in said and info.n_private * epochs != rows:
            raise InputError(
                f"n_private x encryptions_per_image is {info.n_private} x {epochs}, but encryption.npy has {rows} rows"
            )
    digests = said.get("sha256", {})
    arrays = ("encryption.npy", "label.npy")[: 1 if info.labels == "none" else 2]
    for name in arrays if digests != {} else ():
        if not isinstance(digests, dict) or sha256_file(path.with_name(name)) != digests.get(name):
            raise InputError(f"{path.with_name(name)}: its sha256 differs from the one in release.json; fetch it again")
    return info.changed(encryptions_per_image=epochs)
