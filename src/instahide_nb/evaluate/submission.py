"""Reading anyone's decryption: from a ``.npy`` file, or straight from a submission's zip.

Files of strangers are read with suspicion. Nothing is unpickled and nothing is unpacked to a place that the zip names;
a zip's member is refused by its promised size before a byte is decompressed, and cut off if the promise was false.

The zip that the InstaHide Challenge asks for: a description, the attack's source, and the decryptions.

Equal input gives equal bytes: members are stored (compressors differ from machine to machine), sorted by name, and have
a fixed date and fixed permissions. Of the attack's folder only files that an attack writes are taken, so nothing
secret can slip in.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, read_json, write_bytes
from instahide_nb.evaluate.leaderboard import duration, platform_text

TOLERANCE = 1e-5
"""How far beyond [-1, 1] a value may lie: rounding in float32, and no more. It is then clipped."""

_MEMBER = "decryption.npy"
_MEMBERS = 10_000
_HEADER = 4096  # bytes that a .npy header may add to the numbers
_LARGEST_JSON = 2**20
_CHUNK = 2**20


def load_decryption(path: Path | str, expected_shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Load and check a decryption.

    Parameters
    ----------
    path : Path or str
        A ``.npy`` file, or a zip that holds one member named ``decryption.npy`` (in a folder or not).
    expected_shape : tuple of int
        The shape of the release's encryptions, (n, h, w, 3).

    Returns
    -------
    float32 (n, h, w, 3)
        Values in [-1, 1].

    Raises
    ------
    InputError
        When the file is missing, truncated, pickled, not float32 or float64, of another shape, not finite, or leaves
        [-1, 1] by more than :data:`TOLERANCE`; when a zip is damaged, unsafe, too large or holds no decryption. The one
        line names the file and the mend.
    """
    file = Path(path)
    if not _is_zip(file):
        return _check(load_array(file), str(file), tuple(expected_shape))
    limit = int(np.prod(expected_shape, dtype=object)) * 8 + _HEADER
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / _MEMBER
        name = f"{file} ({_MEMBER} in it)"
        with open(copy, "wb") as out:
            _read_member(file, _MEMBER, limit, out)
        try:
            array = load_array(copy)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), name)) from None
        return _check(array, name, tuple(expected_shape))


def _check(array: npt.NDArray[Any], name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if array.dtype not in (np.float32, np.float64):
        raise InputError(
            f"{name}: holds {array.dtype}; float32 in [-1, 1] is expected (a pixel u is 2u/255 - 1)"
        )
    if array.shape != shape:
        raise InputError(
            f"{name}: has shape {array.shape}; {shape} is expected, one image per encryption, channels last"
        )
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))[0])
        raise InputError(f"{name}: image {row} holds NaN or infinity; every value must lie in [-1, 1]")
    low, high = float(array.min()), float(array.max())
    if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
        raise InputError(
            f"{name}: values run from {low:g} to {high:g}; [-1, 1] is expected (a pixel u is 2u/255 - 1)"
        )
    return np.clip(array.astype(np.float32), np.float32(-1), np.float32(1))


def load_attack_info(path: Path | str) -> dict[str, Any]:
    """What an attack says of itself: ``attack.json`` beside a ``decryption.npy``, or in the same zip.

    Returns
    -------
    dict
        Its content; empty when there is none, since a stranger's decryption may come without.

    Raises
    ------
    InputError
        When there is one and it is not a JSON object, or the zip is unsafe.
    """
    file = Path(path)
    if not _is_zip(file):
        beside = file.with_name("attack.json")
        return read_json(beside) if beside.is_file() else {}
    with tempfile.TemporaryFile() as out:
        if not _read_member(file, "attack.json", _LARGEST_JSON, out, must_be_there=False):
            return {}
        out.seek(0)
        try:
            content = json.loads(out.read().decode())
        except (ValueError, RecursionError):
            content = None
    if not isinstance(content, dict):
        raise InputError(f"{file}: attack.json in it is no JSON object; mend it or leave it out")
    return content


def _is_zip(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            magic = stream.read(2)
    except OSError:
        return False  # load_array says what is wrong with it
    if magic != b"PK" and file.suffix.lower() == ".zip":
        raise InputError(f"{file}: is not a zip; make it with instahide-nb submit, or name the .npy itself")
    return magic == b"PK"


def _read_member(file: Path, name: str, limit: int, out: IO[bytes], *, must_be_there: bool = True) -> bool:
    """Copy the one member of that name to `out`; False when there is none and none is required."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MEMBERS:
                raise InputError(
                    f"{file}: holds {len(members)} files; {_MEMBERS} are the most a submission may"
                )
            for member in members:
                _refuse_unsafe(file, member)
            found = [member for member in members if member.filename.rpartition("/")[2] == name]
            if not found and not must_be_there:
                return False
            if len(found) != 1:
                raise InputError(f"{file}: holds {len(found)} files named {name}; exactly one is expected")
            _copy(file, archive, found[0], limit, out)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: cannot be unpacked ({error}); make or fetch it again") from None
    return True


def _refuse_unsafe(file: Path, member: zipfile.ZipInfo) -> None:
    name = member.orig_filename
    outside = name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name)
    if outside or "\\" in name or "\0" in name:
        raise InputError(f"{file}: its member {name!r} points outside the zip; use plain relative names")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise InputError(f"{file}: its member {name!r} is a link; put the file itself there")


def _copy(file: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int, out: IO[bytes]) -> None:
    if member.flag_bits & 1:
        raise InputError(f"{file}: {member.filename} is encrypted; submit it without a password")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{file}: {member.filename} is compressed in an unusual way; store or deflate it")
    too_large = InputError(
        f"{file}: {member.filename} is larger than the {limit} bytes that fit this challenge"
    )
    if member.file_size > limit:
        raise too_large
    copied = 0
    with archive.open(member) as stream:
        while chunk := stream.read(_CHUNK):
            copied += len(chunk)
            if copied > limit:
                raise too_large
            out.write(chunk)


_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold


def make_submission(
    attack_dir: Path | str, out: Path | str | None = None, *, source: Path | str | None = None
) -> Path:
    """Pack an attack's result for the challenge.

    Parameters
    ----------
    attack_dir : Path or str
        The folder an attack wrote: ``decryption.npy`` and ``attack.json``; ``attack.ipynb`` is taken too when it is
        there.
    out : Path or str, optional
        The zip; ``NAME-submission.zip`` beside the folder when left out.
    source : Path or str, optional
        The file or folder of Python source of an attack from outside the package, where ``method`` in ``attack.json``
        does not lead to it.

    Returns
    -------
    Path
        The zip. It holds ``description.md``, ``attack.json``, ``decryption.npy``, ``attack.ipynb`` and below
        ``source/`` the Python files of this package and of the attack.

    Raises
    ------
    InputError
        When a file is missing or unfit, or the attack's source cannot be found.
    """
    folder = Path(attack_dir)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; name an attack's folder, such as runs/demo/attack/unmask"
        )
    about = read_json(folder / "attack.json")
    file = folder / "decryption.npy"
    decryption = load_decryption(file, load_array(file, shape=(None, None, None, 3)).shape)
    method = str(about.get("method") or folder.name)
    entry, own_source = _attack_source(method, None if source is None else Path(source))

    members = {f"source/{name}": data for name, data in {**_package_source(), **own_source}.items()}
    members["description.md"] = describe(about, method, decryption, entry).encode()
    members["attack.json"] = _json(about)
    members["decryption.npy"] = _npy(decryption)
    notebook = folder / "attack.ipynb"
    if notebook.is_file():
        members["attack.ipynb"] = notebook.read_bytes()

    target = folder.parent / f"{folder.resolve().name}-submission.zip" if out is None else Path(out)
    write_bytes(target, _zip(members))
    return target


def describe(
    about: Mapping[str, Any],
    method: str,
    decryption: npt.NDArray[np.float32],
    entry: Callable[..., Any] | None = None,
) -> str:
    """The description in Markdown: algorithm, complexity, running time and platform.

    Parameters
    ----------
    about : mapping
        Content of ``attack.json``.
    method : str
        The attack's name.
    decryption : float32 (n, h, w, 3)
        What is submitted.
    entry : callable, optional
        The attack's function: its module's docstring describes the algorithm.
    """
    from instahide_nb import __version__

    n, height, width = decryption.shape[:3]
    module = inspect.getmodule(entry) if entry is not None else None
    text = inspect.getdoc(module) or (inspect.getdoc(entry) if entry is not None else None)
    lines = [f"# Submission to the InstaHide Challenge: {method}", "", "## Algorithm", ""]
    lines += [text or "See the source.", ""]
    if entry is not None and module is not None:
        lines += [f"It starts at `{module.__name__}:{entry.__name__}`, below `source/`.", ""]
    lines += ["## Complexity", "", str(about.get("complexity") or "not stated"), ""]
    lines += ["## Running time and platform", "", _wall_time(about.get("seconds")), ""]
    seconds = about.get("seconds")
    if isinstance(seconds, Mapping) and seconds:
        lines += ["| stage | seconds |", "| --- | ---: |"]
        lines += [f"| {stage} | {_seconds(value)} |" for stage, value in seconds.items()]
        lines += [""]
    lines += [f"Platform: {platform_text(about.get('platform'))}", ""]
    if about.get("recovered") is not None:
        answer = "found" if about["recovered"] else "not found"
        lines += [f"The random generator's seed or state was {answer}.", ""]
    lines += [
        "## Files",
        "",
        f"- `decryption.npy`: float32 {decryption.shape}, one {width}x{height} image for each of {n} encryptions, "
        "in [-1, 1]; a pixel u is 2u/255 - 1",
        "- `attack.json`: the same as above for programs, and what the attack reports of itself",
        "- `attack.ipynb`, where present: the notebook that ran it",
        f"- `source/`: the attack's source, with all of instahide-nb {__version__} that it runs in",
        "",
    ]
    return "\n".join(lines)


def _wall_time(seconds: object) -> str:
    text = duration(seconds)
    return "Wall time: not stated" if text == "not stated" else f"{text} of wall time"


def _seconds(value: object) -> str:
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return f"{value:.1f}" if fine else "not stated"


def _attack_source(method: str, source: Path | None) -> tuple[Callable[..., Any] | None, dict[str, bytes]]:
    """The attack's function where it can be found, and its files when they are outside the package."""
    if source is not None:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder; name the attack's Python source")
        root = source if source.is_dir() else source.parent
        files = sorted(source.rglob("*.py")) if source.is_dir() else [source]
        if not files:
            raise InputError(f"{source}: holds no Python file; name the attack's Python source")
        return None, {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

    from instahide_nb.attacks.registry import find_attack

    try:
        entry = find_attack(method)
        file = Path(inspect.getsourcefile(entry) or "")
    except (InputError, TypeError):
        entry, file = None, Path()
    if entry is None or not file.is_file():
        raise InputError(
            f"attack.json: the source of method {method!r} cannot be found; run where its module can be imported, or "
            "name its file with --source"
        )
    if entry.__module__.startswith("instahide_nb."):
        return entry, {}
    return entry, {file.name: file.read_bytes()}


def _package_source() -> dict[str, bytes]:
    root = Path(__file__).parents[1]
    return {
        f"instahide_nb/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in root.rglob("*.py")
        if "__pycache__" not in path.parts
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _npy(array: npt.NDArray[np.float32]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array, dtype="<f4"), allow_pickle=False)
    return stream.getvalue()


def _zip(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = 3  # Unix, wherever it is made: the permissions below mean the same
            info.external_attr = 0o100644 << 16
            archive.writestr(info, members[name])
    return stream.getvalue()
