"""Where images come from: embedded photographs, CIFAR-10, Imagenette, a folder, an ``.npz`` file.

A source is a string: ``embedded``, ``cifar10[:ROOT]``, ``imagenette[:ROOT]``, the path of a folder of images or the
path of an ``.npz`` file. ROOT is a folder with the archive or its extracted folder; without it the archive is fetched
once and kept in the cache. For a folder with one of these names write ``./cifar10``. Public images may also come from
``embedded:attacker``, other regions of the embedded photographs.

Private images are drawn evenly from the classes. Public images (patches) are random square crops of photographs with
many SIFT key points, reduced by area, as the challenge filtered ImageNet (Huang et al. 2020, section 5.1).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from instahide_nb.core.arrays import Int64, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.progress import progress
from instahide_nb.data import embedded
from instahide_nb.data.crops import SMALLEST, CropTable, for_each_photograph, kept_crops
from instahide_nb.data.datasets import data_set_folder, read_cifar10, read_npz
from instahide_nb.data.photographs import Photograph, image_files, open_photograph, reduce_area

SIDE = 32
"""Side in pixels to which photographs are reduced for the private set, as in CIFAR-10."""

_WORDS = ("embedded", "cifar10", "imagenette")
_ATTACKER = "embedded:attacker"
_GRAMMAR = "embedded, cifar10[:ROOT], imagenette[:ROOT], a folder of images or an .npz file"


class PrivateSet(NamedTuple):
    """Images (n, h, w, 3), their labels (n,), and the names of all classes of the source."""

    images: UInt8
    labels: Int64
    class_names: tuple[str, ...]


def source_kind(source: str) -> str:
    """The part of a source that is published: its keyword, ``npz`` or ``folder``, never a path."""
    word = source.partition(":")[0]
    return word if word in _WORDS else "npz" if source.lower().endswith(".npz") else "folder"


def parse_source(source: str, name: str = "source") -> tuple[str, Path | None]:
    """The kind of a source and its path; an InputError that begins with `name` if there is no such source."""
    if not isinstance(source, str) or not source or "\0" in source:
        raise InputError(f"{name} {source!r}: a source is {_GRAMMAR}")
    kind = source_kind(source)
    colon, rest = source.partition(":")[1:] if kind in _WORDS else ("", source)
    if kind == "embedded" and source not in ("embedded", _ATTACKER):
        raise InputError(f"{name} {source!r}: write embedded or {_ATTACKER}")
    if kind == "embedded" or (kind in _WORDS and not colon):
        return kind, None
    path = Path(rest).expanduser()
    if kind in _WORDS and (not rest or not path.exists()):
        raise InputError(f"{name} {source!r}: no folder {path.absolute()}; write {kind}:ROOT with an existing one")
    if kind == "npz" and not path.is_file():
        raise InputError(f"{name} {source!r}: no file {path.absolute()}; check the path")
    if kind == "folder" and not path.is_dir():
        raise InputError(f"{name} {source!r}: no folder {path.absolute()}; a source is {_GRAMMAR}")
    return kind, path


def relocate_source(source: str, name: str = "source", start: Path | None = None) -> str:
    """The same source with its path absolute, or relative to the folder `start`; checked as by `parse_source`."""
    kind, path = parse_source(source, name)
    if path is None:
        return source
    moved = os.path.relpath(path.resolve(), start.resolve()) if start else str(path.resolve())
    return f"{kind}:{moved}" if kind in _WORDS else moved


def private_images(source: str, n_private: int, *, generator: np.random.Generator) -> PrivateSet:
    """Choose private images from a source, as evenly from its classes as possible; see `select_balanced`.

    Photographs are cut to their central square and reduced to 32 x 32 by area. A folder of images is one class; in a
    folder of folders each is a class. Of Imagenette the validation half is used, since the training half serves as
    public images. An InputError says that a source is unknown, damaged, offline or too small.
    """
    read, labels, class_names = _private_pool(source)
    if not 2 <= n_private <= len(labels):
        held = f"private_source {source!r} holds {len(labels)} images"
        raise InputError(f"n_private: {n_private} is not possible, {held}; give 2 .. {len(labels)}")
    chosen = select_balanced(labels, len(class_names), n_private, generator)
    return PrivateSet(np.ascontiguousarray(read(chosen)), labels[chosen], class_names)


def select_balanced(labels: Int64, classes: int, n: int, generator: np.random.Generator) -> Int64:
    """Choose `n` indices at random: as many of each class, or one more of the first classes if `n` is not a multiple.

    If a class is too small, the others give more in the same way. If there are exactly `n`, all are taken in order.
    """
    if len(labels) == n:
        return np.arange(n, dtype=np.int64)
    held = np.bincount(labels, minlength=classes)
    # The largest equal share that does not exceed n, and one more from the first larger classes.
    share = max(share for share in range(min(n, int(held.max())) + 1) if np.minimum(held, share).sum() <= n)
    quota = np.minimum(held, share)
    quota[np.flatnonzero(held > share)[: n - quota.sum()]] += 1
    chosen = [generator.permutation(np.flatnonzero(labels == c))[: quota[c]] for c in range(classes)]
    return np.concatenate(chosen).astype(np.int64)


def _private_pool(source: str) -> tuple[Callable[[Int64], UInt8], Int64, tuple[str, ...]]:
    """All that a source holds: a function that reads images by index, labels, class names."""
    kind, path = parse_source(source, "private_source")
    if source == _ATTACKER:
        raise InputError(f"private_source {source!r}: holds public images only; write embedded")
    whole = None
    if kind == "embedded":
        whole = embedded.private_crops()
    elif kind == "cifar10":
        whole = read_cifar10(data_set_folder(kind, path))
    elif kind == "npz" and path is not None:
        whole = read_npz(path, labelled=True)
    if whole is not None:
        return whole[0].__getitem__, *whole[1:]
    folder = data_set_folder(kind, path) / "val" if kind == "imagenette" or path is None else path
    files = image_files(folder, f"private_source {source!r}")
    parts = [file.relative_to(folder).parts for file in files]
    examples = {len(part): "/".join(part) for part in reversed(parts)}
    if set(examples) not in ({1}, {2}):
        found = " and ".join(examples[n] for n in sorted(examples))
        advice = "give a folder of images, or a folder of class folders with images in them"
        raise InputError(f"private_source {source!r}: holds {found}; {advice}")
    names = [folder.resolve().name if len(part) == 1 else part[0] for part in parts]
    class_names = tuple(sorted(set(names)))

    def read(rows: Int64) -> UInt8:
        return np.stack([_central_square(files[row]) for row in rows])

    return read, np.array([class_names.index(name) for name in names], np.int64), class_names


def _central_square(file: Path) -> UInt8:
    """The largest central square of a photograph, reduced to `SIDE`."""
    photo = open_photograph(file)
    side, width, height = photo.side, photo.width, photo.height
    if side < SIDE:
        raise InputError(f"{file}: has {width} x {height} pixels; private images need {SIDE} or more per side")
    square = replace(photo, width=side, height=side, corner=((width - side) // 2, (height - side) // 2))
    return reduce_area(square.read(), (SIDE, SIDE))


def source_photographs(source: str) -> list[Photograph]:
    """The photographs of a public source (a folder at any depth, Imagenette's training half), not yet decoded."""
    kind, path = parse_source(source, "public_source")
    if kind == "embedded":
        return embedded.public_regions("attacker" if source == _ATTACKER else "challenge")
    if kind in ("cifar10", "npz"):
        raise InputError(f"public_source {source!r}: has no photographs; choose a source that has, such as embedded")
    if kind == "imagenette" or path is None:
        path = data_set_folder(kind, path) / "train"
    files = progress(image_files(path, f"public_source {source!r}"), desc="measuring photographs", unit="photo")
    return [open_photograph(file, file.relative_to(path).as_posix()) for file in files]


def public_crops(
    source: str, n: int, *, min_keypoints: int = 40, size: tuple[int, int] = (32, 32), draw: int = 0
) -> CropTable:
    """The crops of `public_patches`, with its parameters; row i of ``box[kept]`` is patch i."""
    if n < 1:
        raise InputError(f"n_public: {n} crops cannot be drawn; give 1 or more")
    return kept_crops(source_photographs(source), n, min_keypoints, max(SMALLEST, *size), draw, source)


def public_patches(
    source: str, n: int, *, min_keypoints: int = 40, size: tuple[int, int] = (32, 32), draw: int = 0
) -> UInt8:
    """Make `n` public patches, uint8 (n, h, w, 3); the same arguments and photographs give the same bits.

    From an ``.npz`` the first `n` are taken. A crop has at least the `size` (height, width) of a patch and 64 px, and
    is kept if SIFT finds more than `min_keypoints` in it. Each `draw`, 0 .. 2^64-1, gives other crops. An InputError
    says that the source is unknown, damaged or too small, or that too few of its crops pass.
    """
    kind, path = parse_source(source, "public_source")
    if kind == "npz" and path is not None:
        ready = read_npz(path, labelled=False)[0]
        if ready.shape[1:3] != size or len(ready) < n:
            held, wanted = f"{len(ready)} patches of {ready.shape[1:3]} pixels", f"{n} of {size}"
            raise InputError(f"public_source {source!r}: holds {held}; {wanted} are needed (n_public)")
        return np.ascontiguousarray(ready[:n])
    crops = public_crops(source, n, min_keypoints=min_keypoints, size=size, draw=draw)
    kept = np.flatnonzero(crops.kept)
    patches = np.empty((n, *size, 3), np.uint8)

    def cut(index: int, rows: Int64) -> None:
        pixels = crops.photographs[index].read()
        for row in rows.tolist():
            x, y, side = crops.box[kept[row]].tolist()
            patches[row] = reduce_area(pixels[y : y + side, x : x + side], size)

    for_each_photograph(cut, crops.photo[kept])
    return patches
