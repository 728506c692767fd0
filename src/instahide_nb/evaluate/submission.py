"""Submissions: reading anyone's decryption, and making the zip that the InstaHide Challenge asks for.

A decryption is a ``.npy`` file or a zip that holds one. Files from strangers are not trusted: nothing is unpickled or
written to a path that the zip names, and the number of bytes read is limited.

The zip made here holds a description, the source of the attack and the decryptions, and nothing secret. Equal input
gives equal bytes: members are stored uncompressed, sorted by name, with a fixed date and fixed permissions.
"""

from __future__ import annotations

import inspect
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from instahide_nb import __version__
from instahide_nb.core.arrays import Float32, Int64
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, one_line, parse_json, read_json, read_npy, write_bytes
from instahide_nb.evaluate.leaderboard import markdown_table, stated, wall_time

TOLERANCE = 1e-5
"""Values this far outside [-1, 1], as after rounding to float32, are clipped."""

_LARGEST_HEADER = 4096  # bytes of a .npy file beside its numbers
_LARGEST_JSON = 2**20
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold

Attack = Callable[..., object]


def load_decryption(path: Path | str, expected_shape: tuple[int, ...]) -> Float32:
    """Load and check a decryption: a ``.npy`` file, or a zip with one member named ``decryption.npy``.

    `expected_shape` is that of the encryptions, (n, h, w, 3). Values are clipped to [-1, 1]. An InputError says that
    the file is missing, damaged, unsafe, not float32 or float64, of another shape, not finite or outside [-1, 1] by
    more than :data:`TOLERANCE`, or that the attack beside it did not find the generator.
    """
    file, expected = Path(path), tuple(expected_shape)
    if not _is_zip(file):
        if not file.exists() and (about := load_attack_info(file)).get("recovered") is False:
            raise InputError(
                f"{file}: was not written, because the random generator was not found ({stated(about.get('reason'))})"
            )
        return _check(load_array(file), str(file), expected)
    data = _read_member(file, "decryption.npy", 8 * int(np.prod(expected, dtype=object)) + _LARGEST_HEADER)
    if data is None:
        raise InputError(f"{file}: contains no decryption.npy; add it")
    name = f"{file} (decryption.npy in it)"
    return _check(read_npy(name, io.BytesIO(data)), name, expected)


def _check(array: npt.NDArray[np.generic], name: str, shape: tuple[int, ...]) -> Float32:
    meaning = "(a pixel u is 2u/255 - 1)"
    if array.dtype not in (np.float32, np.float64):
        raise InputError(f"{name}: holds {array.dtype}; float32 in [-1, 1] is expected {meaning}")
    if array.shape != shape:
        raise InputError(f"{name}: has shape {array.shape}; {shape} is expected, channels last")
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        raise InputError(f"{name}: image {int(finite.argmin())} holds NaN or infinity; every value must lie in [-1, 1]")
    low, high = float(array.min()), float(array.max())
    if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
        raise InputError(f"{name}: values run from {low:g} to {high:g}; [-1, 1] is expected {meaning}")
    return np.clip(array.astype(np.float32), np.float32(-1), np.float32(1))


def load_attack_info(path: Path | str) -> dict[str, object]:
    """The ``attack.json`` beside a ``decryption.npy`` or in the same zip; empty where there is none."""
    file = Path(path)
    if not _is_zip(file):
        beside = file.with_name("attack.json")
        return read_json(beside) if beside.is_file() else {}
    data = _read_member(file, "attack.json", _LARGEST_JSON)
    return {} if data is None else parse_json(f"{file} (attack.json in it)", data)


class AboutAttack(NamedTuple):
    """What an attack wrote beside its decryption."""

    details: dict[str, object]  # the content of attack.json
    recovered: Float32 | None  # (m, h, w, 3), the recovered images
    assignment: Int64 | None  # (n, p), which of them each encryption holds
    coefficient: Float32 | None  # (n, p), and with which coefficients


def about_attack(decryption: Path | str) -> AboutAttack:
    """Read ``attack.json`` (also from a zip) and the arrays beside it; missing or damaged ones are None."""

    def beside(name: str, dtype: type, *shape: int | None) -> Any:
        with suppress(InputError):
            return load_array(Path(decryption).parent / f"{name}.npy", dtype=dtype, shape=shape)

    details: dict[str, object] = {}
    with suppress(InputError):
        details = load_attack_info(decryption)
    tables = beside("assignment", np.int64, None, None), beside("coefficient", np.float32, None, None)
    return AboutAttack(details, beside("recovered", np.float32, None, None, None, 3), *tables)


def _is_zip(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            magic = stream.read(2)
    except OSError:
        return False  # load_array reports it
    if magic != b"PK" and file.suffix.lower() == ".zip":
        raise InputError(f"{file}: is not a zip; make it with instahide-nb submit, or give the .npy itself")
    return magic == b"PK"


def _read_member(file: Path, name: str, limit: int) -> bytes | None:
    """The content of the one member of that name, in any folder, of at most `limit` bytes; None without one."""
    damaged = "is not a readable zip without a password, or is damaged"
    advice = "download it again or make it again"
    with one_line(file, advice=advice, damaged=damaged), zipfile.ZipFile(file) as archive:
        found = [m for m in archive.infolist() if PureWindowsPath(m.filename).name == name]  # "/" or "\\" between names
        if len(found) > 1:
            raise InputError(f"{file}: holds {len(found)} files named {name}; exactly one is expected")
        if not found:
            return None
        with archive.open(found[0]) as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise InputError(f"{file}: {name} is larger than the {limit} bytes that fit this challenge")
        return data


def make_submission(attack_dir: Path | str, out: Path | str | None = None, *, source: Path | str | None = None) -> Path:
    """Pack an attack's result for the challenge, and return the path of the zip.

    The zip is `out`, or ``NAME-submission.zip`` beside the folder `attack_dir`. `source` is the Python file or folder
    of an attack whose ``method`` cannot be imported. An InputError says that a file is missing or unfit, or that the
    attack's source cannot be found.
    """
    folder = Path(attack_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give an attack's folder, such as runs/demo/attack/unmask")
    about, file = read_json(folder / "attack.json"), folder / "decryption.npy"
    decryption = load_decryption(file, load_array(file, shape=(None, None, None, 3)).shape)
    method = str(about.get("method") or folder.name)
    entry, own_source = _attack_source(method, None if source is None else Path(source))
    root = Path(__file__).parents[1]
    package = {path.relative_to(root.parent).as_posix(): path for path in root.rglob("*.py")}
    npy = io.BytesIO()
    np.save(npy, np.ascontiguousarray(decryption, dtype="<f4"), allow_pickle=False)
    members = {
        "description.md": _description(about, method, decryption.shape, entry).encode(),
        "attack.json": (json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(),
        "decryption.npy": npy.getvalue(),
        **{f"source/{name}": path.read_bytes() for name, path in (package | own_source).items()},
    }
    if (folder / "attack.ipynb").is_file():
        members["attack.ipynb"] = (folder / "attack.ipynb").read_bytes()

    target = folder.parent / f"{folder.resolve().name}-submission.zip" if out is None else Path(out)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _FIRST_DATE)
            info.create_system = 3  # Unix on every machine: the permissions mean the same
            info.external_attr = 0o100644 << 16
            archive.writestr(info, members[name])
    write_bytes(target, stream.getvalue())
    return target


def _description(about: Mapping[str, object], method: str, shape: tuple[int, ...], entry: Attack | None) -> str:
    """``description.md``, with the docstring of the attack's module as the description of the algorithm."""
    module = inspect.getmodule(entry) if entry else None
    algorithm = inspect.getdoc(module) or inspect.getdoc(entry) if entry else None
    start = f"Entry point: `{module.__name__}:{entry.__name__}`, below `source/`." if entry and module else ""
    seconds = about.get("seconds")
    stages = seconds if isinstance(seconds, Mapping) else {}
    table = markdown_table(("stage", "seconds"), [(k, f"{v:.1f}") for k, v in stages.items()], ["seconds"])
    found = {True: "found", False: "not found"}.get(about.get("recovered"))  # type: ignore[call-overload]
    parts = [
        f"# Submission to the InstaHide Challenge: {method}",
        "## Algorithm",
        algorithm or "See the source.",
        start,
        "## Complexity",
        stated(about.get("complexity")),
        "## Running time and platform",
        f"Wall time: {wall_time(seconds)}",
        table if stages else "",
        f"Platform: {stated(about.get('platform'))}",
        f"The random generator's seed or state was {found}." if found else "",
        "## Files",
        f"- `decryption.npy`: float32 {shape}, one image per encryption, in [-1, 1]; a pixel u is 2u/255 - 1\n"
        "- `attack.json`: the facts above for programs, and what else the attack reports\n"
        "- `attack.ipynb`, where present: the notebook that ran it\n"
        f"- `source/`: the source of the attack, and of instahide-nb {__version__} in which it runs",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _attack_source(method: str, source: Path | None) -> tuple[Attack | None, dict[str, Path]]:
    """The attack's function if it can be imported, and its files if they are outside the package."""
    if source is not None:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder; give the attack's Python source")
        files = sorted(source.rglob("*.py")) if source.is_dir() else [source]
        if not files:
            raise InputError(f"{source}: contains no Python file; give the attack's Python source")
        root = source if source.is_dir() else source.parent
        return None, {path.relative_to(root).as_posix(): path for path in files}

    from instahide_nb.attacks.registry import find_attack

    try:
        entry = find_attack(method)
        file = Path(inspect.getsourcefile(entry) or "")
    except (InputError, TypeError):
        entry, file = None, Path()
    if entry is None or not file.is_file():
        raise InputError(
            f"attack.json: the source of method {method!r} cannot be found; run where its module can be imported, or "
            "give its file with --source"
        )
    return entry, {} if entry.__module__.startswith("instahide_nb.") else {file.name: file}
