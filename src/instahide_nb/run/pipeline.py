"""Run the notebooks through papermill: gen_data, then attack and evaluate for each method.

Each notebook runs in the run's folder with relative paths, so that its outputs contain no path of the machine. A stage
whose parameters, inputs and files are those of the manifest is not run again, so a killed run resumes after its last
complete stage.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from instahide_nb import __version__
from instahide_nb.attacks.registry import check_method, split_options, why_not
from instahide_nb.challenge.release import load_release
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder, read_json, write_bytes, write_json
from instahide_nb.core.params import NOTEBOOKS, AttackParams, EvaluateParams, GenDataParams, read_yaml
from instahide_nb.core.runs import Messages, counting, locked, logged, logger, note_usage, remove_leftovers
from instahide_nb.data.sources import relocate_source
from instahide_nb.evaluate.leaderboard import Row, load_published, load_rows, save_evaluation, sort_rows, to_markdown
from instahide_nb.evaluate.submission import load_attack_info
from instahide_nb.run.manifest import begin_stage, compare, read_manifest, record_stage
from instahide_nb.run.notebooks import execute, home
from instahide_nb.show.grids import write_method_grid

_PATHS = ("out_dir", "release_dir", "secret_dir", "decryption", "name", "method")
_UNHASHED = {"gen_data": "secret.json", "attack": "attack.json", "evaluate": "row.json"}


def presets() -> list[str]:
    """The names of the presets."""
    return sorted(path.parent.name for path in (home() / "params").glob("*/gen_data.yaml"))


@dataclass(frozen=True)
class Plan:
    """A run, checked before anything is written; `preset` is None if a parameter was changed."""

    run: Path
    preset: str | None
    gen_data: GenDataParams
    attacks: tuple[tuple[AttackParams, EvaluateParams], ...]  # one pair per method, in the order given

    def left_out(self) -> dict[str, str]:
        """The methods that cannot attack such a challenge, and why."""
        return {e.name: why for a, e in self.attacks if (why := why_not(a.method, self.gen_data))}


def preset_values(preset: str, overrides: Mapping[str, Any] = {}) -> dict[str, dict[str, Any]]:
    """The parameters of a preset by notebook, with changes by name or by ``notebook.name``."""
    if preset not in presets():
        raise InputError(f"preset: {preset!r} is not known; choose {', '.join(presets())}")
    values = {name: read_yaml(home() / "params" / preset / f"{name}.yaml") for name in NOTEBOOKS}
    for name, value in overrides.items():
        head, _, tail = name.rpartition(".")
        takers = [n for n in NOTEBOOKS if head in ("", n) and tail in NOTEBOOKS[n].names()]
        if tail in _PATHS:
            raise InputError(f"-p {name}: is set by the run itself; use --out and --method")
        if not takers:
            GenDataParams(**{tail: value})  # names the nearest parameter
            raise InputError(f"-p {name}: no such parameter")
        for notebook in takers:
            values[notebook][tail] = value
    return values


def make_plan(
    preset: str, methods: Sequence[str] = (), out: Path | str | None = None, overrides: Mapping[str, Any] = {}
) -> Plan:
    """Check a preset and the changes to it, as `preset_values` takes them.

    By default `methods` is the preset's own attack and `out` is ``runs/PRESET``.
    """
    values = preset_values(preset, overrides)
    run = Path(out) if out is not None else Path("runs") / preset
    data = GenDataParams(**values["gen_data"] | {"out_dir": "."})
    sources = ("private_source", "public_source")
    data = data.changed(**{name: relocate_source(getattr(data, name), name) for name in sources})
    pairs = []
    for method in methods or [values["attack"]["method"]]:
        check_method(AttackParams(method=method).method)
        slug = method_slug(method)
        found, scores = f"attack/{slug}", f"evaluate/{slug}"
        where = {"release_dir": "release", "out_dir": found, "method": _method(method, run)}
        attack = AttackParams(**values["attack"] | where)
        source = relocate_source(attack.public_source, "public_source", run)
        where = {"release_dir": "release", "secret_dir": "secret", "out_dir": scores, "name": slug}
        evaluate = EvaluateParams(**values["evaluate"] | where | {"decryption": f"{found}/decryption.npy"})
        pairs.append((attack.changed(public_source=source), evaluate))
    return Plan(run, None if overrides else preset, data, tuple(pairs))


def _method(method: str, start: Path) -> str:
    """A method with the files in its options relative to `start`, the folder in which the notebook runs."""
    name, options = split_options(method)
    for option, value in options.items():
        if value.endswith(".npy"):
            path = Path(value).expanduser()
            if not path.is_file():
                raise InputError(f"method: {option}: no file {value}; check the path")
            options[option] = Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()
    return ":".join([name, ",".join(f"{o}={v}" for o, v in options.items())]) if options else method


def method_slug(method: str) -> str:
    """A method's name as a folder's name: ``my_attacks.mean-attack``."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in method).strip(".") or "attack"


class _Stage(NamedTuple):
    """One notebook of a run."""

    name: str  # "gen_data", "attack/METHOD" or "evaluate/METHOD"
    note: dict[str, Any]  # for the manifest: parameters that are not secret, and hashes of the inputs
    parameters: dict[str, Any]  # injected into the notebook

    @property
    def notebook(self) -> str:
        return self.name.partition("/")[0]

    @property
    def folder(self) -> str:
        return "secret" if self.name == "gen_data" else self.name


def reproduce(
    plan: Plan, say: Callable[[str], None] = print, *, watched: bool = False, verbose: TextIO | None = None
) -> Path:
    """Run a plan from where an earlier run of it stopped, without methods that cannot attack the challenge.

    `say` receives one line per stage, `verbose` the lines of the log file; if `watched`, a line at the terminal shows
    the running stage. Returns the run's folder.
    """
    left_out = plan.left_out()
    if len(left_out) == len(plan.attacks):
        raise InputError(f"method: {'; '.join(left_out.values())}")
    # Notebooks run in the run's folder; --method module:function still finds a module beside the caller.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    run = make_folder(plan.run)
    with locked(run) as lock, logged(run, verbose=verbose):
        logger.debug("instahide_nb %s, Python %s, %s", __version__, platform.python_version(), platform.platform())
        for name in remove_leftovers(run):
            logger.info("removed: %s, left by a run that was killed", name)

        def report(stage: str, text: str) -> None:
            line = f"{stage:<24} {text}"
            logger.info(line)
            say(line)

        def work(stage: _Stage) -> dict[str, str]:
            if _finished(run, stage) and (stage.name != "gen_data" or _same_secret(run, plan.gen_data)):
                report(stage.name, "already there")
            else:
                start, messages = time.perf_counter(), Messages(stage.name)
                # 37 columns are for the stage's name and its seconds.
                bars = max(20, shutil.get_terminal_size().columns - 37) if watched else 0
                with counting(stage.name, messages) if watched else nullcontext():
                    _make(plan, run, stage, messages, bars=bars, lock=lock)
                report(stage.name, f"{time.perf_counter() - start:6.1f} s")
            made = read_manifest(run).stages[stage.name].files
            for name, digest in made.items():
                logger.debug("%s  %s", digest, name)
            return made

        hidden = ("seed", "key", "private_source", "public_source")
        data = plan.gen_data.as_dict()
        note = {name: value for name, value in data.items() if name not in hidden}
        challenge = work(_Stage("gen_data", note, data))
        release = {file: digest for file, digest in challenge.items() if file.startswith("release/")}
        for attack, evaluate in plan.attacks:
            if evaluate.name in left_out:
                report(f"attack/{evaluate.name}", f"left out: {left_out[evaluate.name]}")
                continue
            parameters = attack.as_dict()
            note = parameters | {"release": release, "version": __version__}
            made = work(_Stage(f"attack/{evaluate.name}", note, parameters))
            parameters = evaluate.as_dict()
            note = parameters | {"scored": made, "challenge": challenge, "version": __version__}
            stage = _Stage(f"evaluate/{evaluate.name}", note, parameters)
            if _decrypted(run, evaluate.name):
                work(stage)
            elif not _finished(run, stage):
                _record_unranked(plan, run, stage)
                report(stage.name, "nothing to score: the random generator was not found")
        write_leaderboard(run)
    return run


def _finished(run: Path, stage: _Stage) -> bool:
    """Whether the manifest has this stage with these parameters, and its files are unchanged."""
    known = read_manifest(run).stages.get(stage.name)
    folder, method = run / stage.folder, stage.name.partition("/")[2]
    about = folder / _UNHASHED[stage.notebook]
    if known is None or known.parameters != stage.note or not about.is_file():
        return False
    whole = bool(known.files) and (folder / f"{stage.notebook}.ipynb").is_file()
    lost = not whole and bool(method) and not _decrypted(run, method)
    return (whole or lost) and not compare(run, known.files)


def _decrypted(run: Path, method: str) -> bool:
    """Whether the attack has a decryption: not if it looked for the random generator in vain."""
    return read_json(run / "attack" / method / "attack.json").get("recovered") is not False


def _same_secret(run: Path, params: GenDataParams) -> bool:
    """Whether the secret half was made with these parameters, including seed and key."""
    path = run / "secret" / "secret.json"
    if not path.exists():
        return False
    info = read_json(path)
    wanted = {name: value for name, value in params.as_dict().items() if name not in ("out_dir", "key")}
    same_key = not params.key or info.get("start", {}).get("key") == params.key.lower()
    return info.get("parameters") == wanted and same_key


def _make(plan: Plan, run: Path, stage: _Stage, messages: Messages, *, bars: int, lock: int) -> None:
    secret = stage.name == "gen_data"
    if secret and read_manifest(run).begun == stage.name:
        # The killed run has not shown its challenge to anyone, so its seed may be lost.
        (run / "release" / "release.json").unlink(missing_ok=True)
    elif secret and not (run / "secret" / "secret.json").exists():
        begin_stage(run, stage.name)
    output = make_folder(run / stage.folder, secret=secret) / f"{stage.notebook}.ipynb"
    logger.debug("%s: %s", stage.name, stage.note)
    keep: dict[str, Any] = {"cwd": run, "log": run / "log", "messages": messages, "bars": bars, "lock": lock}
    usage = execute(stage.notebook, stage.parameters, output, **keep)
    record_stage(run, stage.name, stage.note, plan.preset)
    note_usage(run, stage.name, usage, read_manifest(run).stages)


def _record_unranked(plan: Plan, run: Path, stage: _Stage) -> None:
    """Write the row of an attack without a decryption; remove scores and pictures of an earlier decryption."""
    folder = make_folder(run / stage.folder)
    for path in (path for name in ("*.npy", "*.png", "metrics.json", "evaluate.ipynb") for path in folder.glob(name)):
        path.unlink()
    details = load_attack_info(run / stage.parameters["decryption"])
    save_evaluation(folder, stage.parameters["name"], None, load_release(run / "release"), details)
    record_stage(run, stage.name, stage.note, plan.preset)


def leaderboard_rows(run: Path) -> list[Row]:
    """The published rows, and those of methods that were scored on the run's current challenge."""
    stages = read_manifest(run).stages
    now = stages["gen_data"].files
    scored = [name for name, stage in sorted(stages.items()) if stage.parameters.get("challenge") == now]
    return load_published() + load_rows(run / name / "row.json" for name in scored)


def write_leaderboard(run: Path) -> None:
    """Write ``leaderboard.md``, ``leaderboard.json`` and ``methods.png``."""
    rows = sort_rows(leaderboard_rows(run))
    write_bytes(run / "leaderboard.md", to_markdown(rows).encode())
    write_json(run / "leaderboard.json", {"rows": [row.as_dict() for row in rows]})
    scored = [row.attack for row in rows if row.kind == "measured" and row.max_ssim is not None]
    made = read_manifest(run).stages["gen_data"].parameters
    write_method_grid(run, scored, made.get("augment", "none"))
