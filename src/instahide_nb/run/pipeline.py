"""Runs the notebooks through papermill: gen_data, then attack and evaluate for each method.

Each notebook runs in the run's folder with relative paths, so that what it leaves names no path of the machine. A
stage whose parameters, inputs and artefacts are as the manifest says is not run again; so a run that was killed
goes on behind its last whole stage.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from instahide_nb import __version__
from instahide_nb.attacks.registry import check_method, split_options
from instahide_nb.challenge.release import load_release
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder, read_json, write_bytes
from instahide_nb.core.params import (
    NOTEBOOKS,
    AttackParams,
    EvaluateParams,
    GenDataParams,
    read_yaml,
)
from instahide_nb.core.runs import (
    Messages,
    Watch,
    bar_width,
    locked,
    logged,
    logger,
    note_usage,
    remove_leftovers,
    unwatched,
)
from instahide_nb.data.sources import source_kind
from instahide_nb.evaluate.report import about_attack, save_evaluation
from instahide_nb.run.manifest import begin_stage, begun, compare, read_manifest, record_stage
from instahide_nb.run.notebooks import NotebookError, execute, home
from instahide_nb.show.grids import write_method_grid

__all__ = ["NotebookError", "Plan", "execute", "home", "make_plan", "presets", "reproduce"]

_PATHS = ("out_dir", "release_dir", "secret_dir", "decryption", "name", "method")


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


def _method(method: str, start: Path) -> str:
    """A method whose options name files where the notebook, which runs in the folder `start`, finds them."""
    name, options = split_options(method)
    for option, value in options.items():
        if value.endswith(".npy"):
            path = Path(value).expanduser()
            if not path.is_file():
                raise InputError(f"method: {option}: no file {value}; check the path")
            options[option] = Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()
    return ":".join([name, ",".join(f"{o}={v}" for o, v in options.items())]) if options else method


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
            base["attack"]
            | {"release_dir": "release", "out_dir": f"attack/{slug}", "method": _method(method, run)}
        )
        check_method(method)
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
    from instahide_nb.data.sources import parse_source

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


@dataclass(frozen=True)
class _Stage:
    """One notebook of a run.

    Attributes
    ----------
    name : str
        "gen_data", "attack/METHOD" or "evaluate/METHOD".
    note : dict
        What the manifest keeps of it: parameters that are no secret, and the hashes of what it is made of.
    parameters : dict
        What is injected into the notebook.
    folder : str
        Where the executed notebook goes, within the run.
    unhashed : str
        A file in the folder that it leaves too, with times or seeds in it.
    """

    name: str
    note: dict[str, Any]
    parameters: dict[str, Any]
    folder: str
    unhashed: str

    @property
    def notebook(self) -> str:
        return self.name.partition("/")[0]


def _finished(run: Path, stage: _Stage) -> bool:
    """Whether the manifest has this stage with these parameters, and its files are as it says."""
    known = read_manifest(run)["stages"].get(stage.name)
    if known is None or known["parameters"] != stage.note:
        return False
    folder = run / stage.folder
    if not (folder / f"{stage.notebook}.ipynb").is_file() or not (folder / stage.unhashed).is_file():
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


def reproduce(
    plan: Plan,
    say: Callable[[str], None] = print,
    *,
    watch: Watch = unwatched,
    verbose: TextIO | None = None,
) -> Path:
    """Run a plan, resuming where an earlier run of it stopped.

    Parameters
    ----------
    plan : Plan
        From :func:`make_plan`.
    say : callable
        Takes one line per stage.
    watch : callable
        Shows a stage while it runs: :func:`instahide_nb.core.runs.counting` at a terminal.
    verbose : text stream, optional
        Takes what goes to the log file.

    Returns
    -------
    Path
        The run's folder, with ``leaderboard.md``, ``leaderboard.json``, ``manifest.json``, ``resources.json`` and a
        file in ``log/``.
    """
    # Notebooks run in the run's folder; a module beside the caller is still found by --method module:function.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    run = make_folder(plan.run)
    with locked(run) as lock, logged(run, verbose=verbose):
        logger.debug(
            "instahide_nb %s, Python %s, %s", __version__, platform.python_version(), platform.platform()
        )
        for name in remove_leftovers(run):
            logger.info("removed: %s, left by a run that was killed", name)

        def work(stage: _Stage) -> dict[str, str]:
            if _finished(run, stage) and (stage.name != "gen_data" or _same_secret(run, plan.gen_data)):
                line = f"{stage.name:<24} already there"
            else:
                start = time.perf_counter()
                messages = Messages(stage.name)
                with watch(stage.name, messages):
                    _make(
                        plan, run, stage, messages, bars=0 if watch is unwatched else bar_width(), lock=lock
                    )
                line = f"{stage.name:<24} {time.perf_counter() - start:6.1f} s"
            logger.info(line)
            say(line)
            made: dict[str, str] = read_manifest(run)["stages"][stage.name]["files"]
            for name, digest in made.items():
                logger.debug("%s  %s", digest, name)
            return made

        release = work(_gen_data_stage(plan.gen_data))
        for attack, evaluate in plan.attacks:
            made = work(_attack_stage(attack, evaluate.name, release))
            stage = _evaluate_stage(evaluate, release, made)
            if made:
                work(stage)
            else:  # the generator was not found, so there is no decryption to score
                about = about_attack(run / evaluate.decryption)
                save_evaluation(run / stage.folder, evaluate.name, None, load_release(run / "release"), about)
                record_stage(run, stage.name, stage.note, plan.preset)
        _write_leaderboard(run)
        write_method_grid(run, [row.attack for row in _rows(run) if row.kind == "measured"])
    return run


def _gen_data_stage(params: GenDataParams) -> _Stage:
    hidden = ("seed", "key", "private_source", "public_source")
    note = {name: value for name, value in params.as_dict().items() if name not in hidden}
    return _Stage("gen_data", note, params.as_dict(), "secret", "secret.json")


def _attack_stage(params: AttackParams, name: str, challenge: dict[str, str]) -> _Stage:
    made_from = {file: digest for file, digest in challenge.items() if file.startswith("release/")}
    note = params.as_dict() | {"release": made_from, "version": __version__}
    return _Stage(f"attack/{name}", note, params.as_dict(), f"attack/{name}", "attack.json")


def _evaluate_stage(params: EvaluateParams, challenge: dict[str, str], scored: dict[str, str]) -> _Stage:
    note = params.as_dict() | {"scored": scored, "challenge": challenge, "version": __version__}
    stage = f"evaluate/{params.name}"
    return _Stage(stage, note, params.as_dict(), stage, "row.json")


def _make(plan: Plan, run: Path, stage: _Stage, messages: Messages, *, bars: int, lock: int) -> None:
    secret = stage.name == "gen_data"
    if secret and begun(run) == stage.name:
        # A challenge of a killed run that nobody has seen: its drawn seed need not be kept.
        (run / "release" / "release.json").unlink(missing_ok=True)
    elif secret and not (run / "secret" / "secret.json").exists():
        begin_stage(run, stage.name)
    folder = make_folder(run / stage.folder, secret=secret)
    logger.debug("%s: %s", stage.name, stage.note)
    usage = execute(
        stage.notebook,
        stage.parameters,
        folder / f"{stage.notebook}.ipynb",
        cwd=run,
        log=run / "log",
        messages=messages,
        bars=bars,
        lock=lock,
    )
    record_stage(run, stage.name, stage.note, plan.preset)
    note_usage(run, stage.name, usage, read_manifest(run)["stages"])


def _rows(run: Path) -> list[Any]:
    from instahide_nb.evaluate.leaderboard import load_published, load_rows

    stages = read_manifest(run)["stages"]
    # A method's row counts when it was scored on the challenge that is here now.
    now = stages["gen_data"]["files"]
    scored = [name for name, stage in sorted(stages.items()) if stage["parameters"].get("challenge") == now]
    return load_published() + load_rows(run / name / "row.json" for name in scored)


def _write_leaderboard(run: Path) -> None:
    from instahide_nb.evaluate.leaderboard import to_json, to_markdown

    write_bytes(run / "leaderboard.md", to_markdown(_rows(run)).encode())
    write_bytes(run / "leaderboard.json", to_json(_rows(run)).encode())


def leaderboard_text(run: Path) -> str:
    """The leaderboard of a run as a short table for a terminal."""
    from instahide_nb.evaluate.leaderboard import to_text

    return to_text(_rows(run))
