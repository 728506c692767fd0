"""Runs the notebooks through papermill: gen_data, then attack and evaluate for each method.

Each notebook runs in the run's folder with relative paths, so that what it leaves names no path of the machine. A
stage whose parameters, inputs and artefacts are as the manifest says is not run again.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instahide_nb import __version__
from instahide_nb.attack.registry import find_attack
from instahide_nb.errors import InputError
from instahide_nb.evaluation import write_method_grid
from instahide_nb.manifest import compare, read_manifest, record_stage
from instahide_nb.params import NOTEBOOKS, AttackParams, EvaluateParams, GenDataParams, read_yaml, source_kind
from instahide_nb.storage import make_folder, read_json, write_bytes

__all__ = ["NotebookError", "Plan", "execute", "home", "make_plan", "presets", "reproduce"]

_PATHS = ("out_dir", "release_dir", "secret_dir", "decryption", "name", "method")


class NotebookError(RuntimeError):
    """A notebook's cell failed for a reason that is not the input's."""


def home() -> Path:
    """The folder with ``notebooks/`` and ``params/``: the checkout, or the installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1]
    return checkout if (checkout / "notebooks").is_dir() else package


def presets() -> list[str]:
    """The names of the presets."""
    return sorted(path.parent.name for path in (home() / "params").glob("*/gen_data.yaml"))


@dataclass(frozen=True)
class Plan:
    """What a run will do, checked before anything is written.

    Attributes
    ----------
    run : Path
        The run's folder.
    preset : str or None
        The preset's name when no parameter was changed.
    gen_data : GenDataParams
    attacks : tuple of (AttackParams, EvaluateParams)
        One pair a method, in the order given.
    """

    run: Path
    preset: str | None
    gen_data: GenDataParams
    attacks: tuple[tuple[AttackParams, EvaluateParams], ...]


def _overrides(values: Mapping[str, Any], notebook: str) -> dict[str, Any]:
    """Those of ``name`` and ``notebook.name`` that belong to a notebook."""
    known, chosen = NOTEBOOKS[notebook].names(), {}
    for name, value in values.items():
        head, dot, tail = name.rpartition(".")
        if (not dot and name in known) or head == notebook:
            chosen[tail if dot else name] = value
    return chosen


def _source(value: str, start: Path | None) -> str:
    """A source whose path holds wherever the notebook runs: absolute, or relative to the folder `start`."""
    keyword, colon, root = value.partition(":")
    if source_kind(value) in ("npz", "folder"):
        keyword, colon, root = "", "", value
    if not root or value.startswith("embedded"):
        return value
    path = Path(root).expanduser().resolve()
    return keyword + colon + (os.path.relpath(path, start.resolve()) if start else str(path))


def make_plan(
    preset: str, methods: Sequence[str] = (), out: Path | str | None = None, overrides: Mapping[str, Any] = {}
) -> Plan:
    """Check a preset and what is changed of it.

    Parameters
    ----------
    preset : str
        A folder of ``params/``.
    methods : sequence of str
        Attacks to run; none means the preset's own.
    out : path, optional
        The run's folder; ``runs/PRESET`` by default.
    overrides : mapping
        Parameters by name, or by ``notebook.name`` where two notebooks share one.

    Raises
    ------
    InputError
        At an unknown preset, method or parameter, or a value out of range.
    """
    folder = home() / "params" / preset
    if preset not in presets():
        raise InputError(f"preset: {preset!r} is not known; choose {', '.join(presets())}")
    for name in overrides:
        head, _, tail = name.rpartition(".")
        if tail in _PATHS:
            raise InputError(f"-p {name}: is set by the run itself; use --out and --method")
        if head not in ("", *NOTEBOOKS) or not any(_overrides({name: 0}, notebook) for notebook in NOTEBOOKS):
            GenDataParams.from_mapping({tail: overrides[name]})  # names the nearest parameter
            raise InputError(f"-p {name}: no such parameter")
    base = {n: read_yaml(folder / f"{n}.yaml") | _overrides(overrides, n) for n in NOTEBOOKS}
    run = Path(out) if out is not None else Path("runs") / preset
    data = GenDataParams.from_mapping(base["gen_data"] | {"out_dir": "."})
    for name in ("private_source", "public_source"):
        check_source(getattr(data, name), name)
    sources = {name: _source(getattr(data, name), None) for name in ("private_source", "public_source")}
    data = GenDataParams.from_mapping(data.as_dict() | sources)
    pairs = []
    for method in methods or [base["attack"].get("method", "unmask")]:
        slug = method_slug(method)
        attack = AttackParams.from_mapping(
            base["attack"] | {"release_dir": "release", "out_dir": f"attack/{slug}", "method": method}
        )
        if ":" in method:
            find_attack(method)
        check_source(attack.public_source, "public_source")
        source = _source(attack.public_source, run)
        attack = AttackParams.from_mapping(attack.as_dict() | {"public_source": source})
        evaluate = EvaluateParams.from_mapping(
            base["evaluate"]
            | {"release_dir": "release", "secret_dir": "secret", "name": slug}
            | {"decryption": f"attack/{slug}/decryption.npy", "out_dir": f"evaluate/{slug}"}
        )
        pairs.append((attack, evaluate))
    return Plan(run, None if overrides else preset, data, tuple(pairs))


def check_source(source: str, name: str) -> None:
    """Refuse a source that is not there before anything is written."""
    from instahide_nb.sources import parse_source

    try:
        parse_source(source)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(name) else f"{name}: {text}") from None


def method_slug(method: str) -> str:
    """A method's name as a folder's name.

    Examples
    --------
    >>> method_slug("my_attacks.mean:attack")
    'my_attacks.mean-attack'
    """
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in method).strip(".") or "attack"


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Hold the run's folder; a second run in it says so and stops."""
    with open(run / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{run}: another run is at work in this folder; wait for it or choose --out"
            ) from None
        yield


def execute(notebook: str, parameters: Mapping[str, Any], output: Path, *, cwd: Path, log: Path) -> None:
    """Run one notebook and keep it, without times and machine metadata.

    Parameters
    ----------
    notebook : str
        "gen_data", "attack" or "evaluate".
    parameters : mapping
        Injected behind its ``parameters`` cell.
    output : Path
        Where the executed notebook goes when it is whole.
    cwd : Path
        The folder that it runs in.
    log : Path
        A folder for the partial notebook; it stays there when a cell fails.

    Raises
    ------
    InputError
        When a cell raised one: its line.
    NotebookError
        When a cell failed otherwise: the cell, the error and the path of the partial notebook.
    """
    # For a format that notebooks do not use, jsonschema would build a grammar for three seconds.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import papermill

    partial = log / f"{output.parent.name}-{notebook}.ipynb"
    try:
        papermill.execute_notebook(
            home() / "notebooks" / f"{notebook}.ipynb",
            partial,
            parameters=dict(parameters),
            cwd=cwd,
            kernel_name="python3",
            progress_bar=False,
            extra_arguments=["--Application.log_level=40"],  # ipykernel warns of its transport at each start
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(str(error.evalue)) from None
        raise NotebookError(
            f"{notebook}: cell {error.exec_count} failed with {error.ename}: {' '.join(str(error.evalue).split())} "
            f"(partial notebook: {partial})"
        ) from None
    write_bytes(output, clean_notebook(partial), secret=notebook == "gen_data")
    partial.unlink()


def clean_notebook(path: Path) -> bytes:
    """A notebook's bytes without times, random cell ids and the metadata of papermill."""
    import nbformat

    book = nbformat.read(path, 4)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return (nbformat.writes(book) + "\n").encode()


def _finished(run: Path, stage: str, parameters: dict[str, Any]) -> bool:
    """Whether the manifest has this stage with these parameters, and its files are as it says."""
    known = read_manifest(run)["stages"].get(stage)
    if known is None or known["parameters"] != parameters or not known["files"]:
        return False
    return not compare(run, known["files"])


def _same_secret(run: Path, params: GenDataParams) -> bool:
    """Whether the secret half was made with these very parameters, seed and key included."""
    path = run / "secret" / "secret.json"
    if not path.exists():
        return False
    info = read_json(path)
    wanted = {name: value for name, value in params.as_dict().items() if name not in ("out_dir", "key")}
    same_key = not params.key or info.get("start", {}).get("key") == params.key.lower()
    return info.get("parameters") == wanted and same_key


def reproduce(plan: Plan, say: Callable[[str], None] = print) -> Path:
    """Run a plan, resuming where an earlier run of it stopped.

    Parameters
    ----------
    plan : Plan
        From :func:`make_plan`.
    say : callable
        Takes one line per stage.

    Returns
    -------
    Path
        The run's folder, with ``leaderboard.md``, ``leaderboard.json`` and ``manifest.json``.
    """
    # Notebooks run in the run's folder; a module beside the caller is still found by --method module:function.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    run = make_folder(plan.run)
    log = make_folder(run / "log", secret=True)
    with _locked(run):
        public = {
            name: value
            for name, value in plan.gen_data.as_dict().items()
            if name not in ("seed", "key", "private_source", "public_source")
        }
        _stage(plan, run, log, "gen_data", "gen_data", public, plan.gen_data.as_dict(), run / "secret", say)
        release = read_manifest(run)["stages"]["gen_data"]["files"]
        for attack, evaluate in plan.attacks:
            stage = f"attack/{evaluate.name}"
            made_from = {name: digest for name, digest in release.items() if name.startswith("release/")}
            note = attack.as_dict() | {"release": made_from, "version": __version__}
            _stage(plan, run, log, stage, "attack", note, attack.as_dict(), run / stage, say)
            made = read_manifest(run)["stages"][stage]["files"]
            stage = f"evaluate/{evaluate.name}"
            note = evaluate.as_dict() | {"scored": made, "challenge": release, "version": __version__}
            _stage(plan, run, log, stage, "evaluate", note, evaluate.as_dict(), run / stage, say)
        _write_leaderboard(run)
        write_method_grid(run, [row.attack for row in _rows(run) if row.kind == "measured"])
    return run


def _stage(
    plan: Plan,
    run: Path,
    log: Path,
    stage: str,
    notebook: str,
    note: dict[str, Any],
    parameters: dict[str, Any],
    folder: Path,
    say: Callable[[str], None],
) -> None:
    if _finished(run, stage, note) and (notebook != "gen_data" or _same_secret(run, plan.gen_data)):
        say(f"{stage:<24} already there")
        return
    start = time.perf_counter()
    make_folder(folder, secret=notebook == "gen_data")
    execute(notebook, parameters, folder / f"{notebook}.ipynb", cwd=run, log=log)
    record_stage(run, stage, note, plan.preset)
    say(f"{stage:<24} {time.perf_counter() - start:6.1f} s")


def _rows(run: Path) -> list[Any]:
    from instahide_nb.leaderboard import load_published
    from instahide_nb.leaderboard_row import load_rows

    stages = read_manifest(run)["stages"]
    # A method's row counts when it was scored on the challenge that is here now.
    now = stages["gen_data"]["files"]
    scored = [name for name, stage in sorted(stages.items()) if stage["parameters"].get("challenge") == now]
    return load_published() + load_rows(run / name / "row.json" for name in scored)


def _write_leaderboard(run: Path) -> None:
    from instahide_nb.leaderboard import to_json, to_markdown

    write_bytes(run / "leaderboard.md", to_markdown(_rows(run)).encode())
    write_bytes(run / "leaderboard.json", to_json(_rows(run)).encode())


def leaderboard_text(run: Path) -> str:
    """The leaderboard of a run as a short table for a terminal."""
    from instahide_nb.leaderboard import to_text

    return to_text(_rows(run))
