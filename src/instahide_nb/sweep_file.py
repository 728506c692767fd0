"""Sweep files: which runs a YAML file of axes asks for, each checked before the first one starts.

A file names a preset, what is changed of it for all runs (``parameters``), and lists of values (``axes``), of which
every combination is a run; ``repeats: R`` makes each run R times, with R seeds in a row. Every parameter of
``gen_data`` and ``attack`` can be an axis, under the name that ``-p`` takes.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instahide_nb import __version__
from instahide_nb.errors import InputError
from instahide_nb.metrics import METRICS
from instahide_nb.params import AttackParams, GenDataParams, read_yaml, source_kind
from instahide_nb.pipeline import Plan, home, make_plan, presets

__all__ = ["SweepFigure", "SweepFile", "SweepRun", "load_sweep"]

_KEYS = ("preset", "parameters", "axes", "repeats", "figure")
_MOST_RUNS = 10_000
_LARGEST = 2**20  # bytes
_NAMES = {"gen_data": GenDataParams.names(), "attack": AttackParams.names()}
_ALL_NAMES = {name for names in _NAMES.values() for name in names}
_OWN = {"out_dir", "release_dir", "key"}  # set by the sweep: folders by run, keys from seeds


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes
    ----------
    identity : str
        sha256 of all parameters as written, and of the package's version. The folder of the run is named after it.
    label : str
        The values of the axes, for people.
    preset, method, overrides : str, str, dict
        What :func:`instahide_nb.pipeline.make_plan` takes.
    parameters : dict
        Every parameter, for the table; of a source outside the package only its kind.
    """

    identity: str
    label: str
    preset: str
    method: str
    overrides: dict[str, Any]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class SweepFigure:
    """What the figure shows: the metric `y` against the axis `x`, a line for each value of the axis `lines`."""

    x: str
    y: str = "max_ssim"
    lines: str = "method"


@dataclass(frozen=True)
class SweepFile:
    """A sweep: its runs, in the order of the table."""

    path: Path
    runs: tuple[SweepRun, ...]
    figure: SweepFigure | None


def load_sweep(path: Path | str) -> SweepFile:
    """Read and check a sweep file.

    Raises
    ------
    InputError
        When it is no such file, or a run that it asks for cannot be: names the axis, and the run.
    """
    file = Path(path)
    content = _read(file)
    for key in content:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, 1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"a sweep has {', '.join(_KEYS)}; other names go below parameters or axes"
            )
            raise InputError(f"{file}: {key}: no such entry; {hint}")
    preset = content.get("preset", "tiny")
    if not isinstance(preset, str) or preset not in presets():
        raise InputError(f"{file}: preset: {preset!r} is not known; choose {', '.join(presets())}")
    fixed, axes = (_mapping(file, content, name) for name in ("parameters", "axes"))
    for kind, names in (("parameter", fixed), ("axis", axes)):
        for name in names:
            _check_name(file, kind, name)
    for name in fixed:
        if name in axes:
            raise InputError(f"{file}: axis {name}: is fixed below parameters too; take one of them away")
        if isinstance(fixed[name], list | dict):
            raise InputError(f"{file}: parameter {name}: takes one value; lists go below axes")
    for name, values in axes.items():
        _check_axis(file, name, values)
    repeats = content.get("repeats", 1)
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise InputError(f"{file}: repeats: {repeats!r} is not a number of times; give 1 or more")
    if "repeats" in content and {"seed", "gen_data.seed"} & axes.keys():
        raise InputError(f"{file}: axis seed: repeats chooses the seeds; take one of them away")
    count = repeats
    for values in axes.values():
        count *= len(values)
    if count > _MOST_RUNS:
        raise InputError(f"{file}: axes: {count} runs; at most {_MOST_RUNS} are accepted")
    figure = _figure(file, content.get("figure"), axes)
    runs = tuple(_runs(file, preset, fixed, axes, repeats))
    seen: dict[str, str] = {}
    for run in runs:
        if run.identity in seen:
            raise InputError(f"{file}: axes: the runs {seen[run.identity]} and {run.label} are the same")
        seen[run.identity] = run.label
    return SweepFile(file, runs, figure)


def _read(file: Path) -> dict[Any, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a name given twice, of which YAML keeps the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            for name in names:
                if names.count(name) > 1:
                    raise InputError(f"{file}: {name}: is given twice; take one of them away")
            return super().construct_mapping(node, deep)

    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"{file}: is larger than 1 MiB; a sweep file is not")
        content = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        shipped = sorted(p.stem for p in (home() / "params" / "sweeps").glob("*.yaml"))
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); params/sweeps holds {', '.join(shipped)}"
        ) from None
    except InputError:
        raise
    except Exception:  # beside YAMLError, PyYAML lets through what int(), date() and dict lookups raise
        raise InputError(f"{file}: is not YAML; write preset, axes and so on as in params/sweeps") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no sweep; write preset, axes and so on as in params/sweeps")
    return content


def _mapping(file: Path, content: Mapping[Any, Any], name: str) -> dict[str, Any]:
    value = content.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(
            f"{file}: {name}: is {type(value).__name__}; write one 'name: value' a line below it"
        )
    return {str(key): entry for key, entry in value.items()}


def _check_name(file: Path, kind: str, name: str) -> None:
    head, _, tail = name.rpartition(".")
    known = set(_NAMES.get(head, ())) if head else _ALL_NAMES
    if tail in _OWN:
        raise InputError(f"{file}: {kind} {name}: is set by the sweep itself; take it away")
    if tail not in known:
        near = difflib.get_close_matches(tail, sorted(_ALL_NAMES - _OWN), 1)
        hint = f"did you mean {near[0]}?" if near else "the parameters are those of params/PRESET/*.yaml"
        raise InputError(f"{file}: {kind} {name}: no such parameter; {hint}")


def _check_axis(file: Path, name: str, values: object) -> None:
    if not isinstance(values, list):
        raise InputError(f"{file}: axis {name}: is no list; write [{values}], or move it below parameters")
    if not values:
        raise InputError(f"{file}: axis {name}: is empty; give its values")
    for place, value in enumerate(values):
        if isinstance(value, list | dict) or value is None:
            raise InputError(
                f"{file}: axis {name}: value {place + 1} is no plain value; give numbers or text"
            )
        if value in values[:place]:
            raise InputError(f"{file}: axis {name}: {value!r} is there twice; take one of them away")


def _figure(file: Path, content: object, axes: Mapping[str, Any]) -> SweepFigure | None:
    if content is None:
        return None
    names = ("x", "y", "lines")
    if not isinstance(content, dict) or not set(content) <= set(names) or "x" not in content:
        raise InputError(f"{file}: figure: takes x, y and lines, of which x must be given")
    for name in ("x", "lines"):
        if name in content and content[name] not in axes:
            raise InputError(
                f"{file}: figure: {name} is {content[name]!r}; choose an axis: {', '.join(axes)}"
            )
    if content.get("y", METRICS[0]) not in METRICS:
        raise InputError(f"{file}: figure: y is {content['y']!r}; choose {', '.join(METRICS)}")
    return SweepFigure(**content)


def _runs(
    file: Path, preset: str, fixed: Mapping[str, Any], axes: Mapping[str, list[Any]], repeats: int
) -> Iterator[SweepRun]:
    base = {name: read_yaml(home() / "params" / preset / f"{name}.yaml") for name in _NAMES}
    first = fixed.get("gen_data.seed", fixed.get("seed", base["gen_data"]["seed"]))
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        for repeat in range(repeats):
            overrides = dict(fixed) | chosen
            shown = dict(chosen)
            if repeats > 1:
                if not isinstance(first, int):
                    raise InputError(
                        f"{file}: repeats: the seed {first!r} cannot be counted on; give a number"
                    )
                overrides.pop("gen_data.seed", None)
                overrides["seed"] = shown["seed"] = first + repeat
            label = " ".join(f"{name}={value}" for name, value in shown.items()) or preset
            yield _run(file, preset, overrides, axes, label, base)


def _run(
    file: Path,
    preset: str,
    overrides: dict[str, Any],
    axes: Mapping[str, Any],
    label: str,
    base: Mapping[str, Mapping[str, Any]],
) -> SweepRun:
    method = overrides.pop("attack.method", overrides.pop("method", base["attack"]["method"]))
    if not isinstance(method, str):
        raise InputError(f"{file}: axis method: {method!r} is no text; give the name of an attack")
    try:
        plan = make_plan(preset, [method], ".", overrides)
        if plan.gen_data.seed == "entropy":
            raise InputError("seed: entropy would draw another challenge each time; give numbers")
        if plan.gen_data.rng == "chacha20":
            # A key for each seed, so that a sweep of the mended generator can be repeated as well.
            overrides["key"] = hashlib.sha256(
                f"instahide-nb sweep, seed {plan.gen_data.seed}".encode()
            ).hexdigest()
            plan = make_plan(preset, [method], ".", overrides)
    except InputError as error:
        raise InputError(_blame(file, str(error), axes, label)) from None
    written = _as_written(plan, overrides, base)
    text = json.dumps({"version": __version__, "preset": preset, **written}, sort_keys=True)
    parameters = {"preset": preset} | {name: value for name, value in written.items() if name != "key"}
    for name in ("private_source", "public_source", "attack.public_source"):
        keyword = str(parameters[name])
        parameters[name] = keyword if keyword.startswith("embedded") else source_kind(keyword)
    return SweepRun(hashlib.sha256(text.encode()).hexdigest(), label, preset, method, overrides, parameters)


def _as_written(
    plan: Plan, overrides: Mapping[str, Any], base: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Every parameter by its name in the table; sources as the file has them, not as paths of this machine."""
    attack = plan.attacks[0][0].as_dict()
    written = {name: value for name, value in plan.gen_data.as_dict().items() if name != "out_dir"}
    written |= {name: attack[name] for name in ("method", "seed_start", "seed_stop")}
    written["attack.n_public"] = attack["n_public"]

    def source(notebook: str, name: str) -> Any:
        return overrides.get(f"{notebook}.{name}", overrides.get(name, base[notebook][name]))

    written["private_source"] = source("gen_data", "private_source")
    written["public_source"] = source("gen_data", "public_source")
    written["attack.public_source"] = source("attack", "public_source")
    return written


def _blame(file: Path, message: str, axes: Mapping[str, Any], label: str) -> str:
    """The message with the axis named, where a value of one is at fault."""
    head, colon, rest = message.removeprefix("-p ").partition(":")
    for name in head.split(", ") if colon else []:
        for axis in axes:
            if name in (axis, axis.rpartition(".")[2]):
                return f"{file}: axis {axis}:{rest} (run {label})"
    return f"{file}: {message} (run {label})"
