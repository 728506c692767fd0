"""The zip that the InstaHide Challenge asks for: a description, the attack's source, and the decryptions.

Equal input gives equal bytes: members are stored (compressors differ from machine to machine), sorted by name, and have
a fixed date and fixed permissions. Of the attack's folder only files that an attack writes are taken, so nothing
secret can slip in.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.decryptions import load_decryption
from instahide_nb.errors import InputError
from instahide_nb.leaderboard_row import duration, platform_text
from instahide_nb.storage import load_array, read_json, write_bytes

__all__ = ["describe", "make_submission"]

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

    from instahide_nb.attack.registry import find_attack

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
    root = Path(__file__).parent
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
