"""Hashes of the files of a run: recorded after each stage, and compared.

``RUN/manifest.json`` names every file that is the same on any machine. Arrays and JSON are hashed as files, as
``sha256sum`` does; pictures by their pixels, since PNG bytes depend on the compressor's version. Files that contain
times (``attack.json``, notebooks, the leaderboard) are not hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instahide_nb.core.errors import InputError, naming
from instahide_nb.core.files import make_folder, read_json, sha256_array, sha256_file, write_json
from instahide_nb.core.params import Record

MANIFEST = "manifest.json"
EXPECTED = Path(__file__).parent / "expected"
_STAGES = {
    "gen_data": ("release/*.npy", "release/release.json", "secret/*.npy"),
    "attack": ("decryption.npy", "recovered.npy", "assignment.npy", "coefficient.npy"),
    "evaluate": ("metrics.json", "per_encryption.npy", "comparison_grid.png", "overview.png"),
}


class Stage(Record):
    """A complete stage."""

    parameters: dict[str, Any]  # without seed and key
    files: dict[str, str]  # the hashes of its files, by path within the run


class Manifest(Record):
    """What has been done of a run."""

    stages: dict[str, Stage]  # complete ones
    preset: str | None = None  # if no parameter was changed
    begun: str | None = None  # the stage that has begun

    def files(self) -> dict[str, str]:
        """The hashes of all stages, by path within the run."""
        return {name: digest for stage in self.stages.values() for name, digest in stage.files.items()}


def artefact_digest(path: Path) -> str:
    """The sha256 of a file, or of a picture's pixels."""
    if path.suffix != ".png":
        return sha256_file(path)
    import cv2
    import numpy as np

    try:
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        pixels = None
    if pixels is None:
        raise InputError(f"{path}: is not a readable picture; run again")
    return sha256_array(pixels)


def digests(run: Path, stage: str) -> dict[str, str]:
    """The hashes of the artefacts of "gen_data", "attack/METHOD" or "evaluate/METHOD", by path within the run."""
    kind = stage.partition("/")[0]
    folder = run if kind == "gen_data" else run / stage
    found = sorted(path for pattern in _STAGES[kind] for path in folder.glob(pattern))
    return {path.relative_to(run).as_posix(): artefact_digest(path) for path in found}


def read_manifest(run: Path) -> Manifest:
    """The manifest of a run; an empty one if it has none yet."""
    path = run / MANIFEST
    content = read_json(path) if path.exists() else {"stages": {}}
    with naming(path, "; delete it and run again"):
        return Manifest(**content)


def begin_stage(run: Path, stage: str) -> None:
    """Record that a stage has begun, until :func:`record_stage` records that it is complete."""
    write_json(run / MANIFEST, read_manifest(run).changed(begun=stage).as_dict())


def record_stage(run: Path, stage: str, parameters: dict[str, Any], preset: str | None) -> dict[str, str]:
    """Hash a complete stage and record it; remove the later stages if its files have changed."""
    stages, found = read_manifest(run).stages, digests(run, stage)
    if stage in stages and stages[stage].files != found:
        kind, _, method = stage.partition("/")
        above = {"gen_data": ("attack/", "evaluate/"), "attack": (f"evaluate/{method}",)}.get(kind, ())
        stages = {name: entry for name, entry in stages.items() if not name.startswith(above)}
    stages |= {stage: Stage(parameters=parameters, files=found)}
    write_json(run / MANIFEST, Manifest(stages=stages, preset=preset).as_dict())
    return found


def compare(run: Path, wanted: Mapping[str, str]) -> list[str]:
    """One line for each file of a run that is missing or has another hash."""
    wrong = []
    for name, digest in sorted(wanted.items()):
        try:
            found = artefact_digest(run / name) if (run / name).exists() else ""
        except InputError as error:
            wrong.append(str(error))
            continue
        if found != digest:
            wrong.append(f"{name}: {found[:16]}, expected {digest[:16]}" if found else f"{name}: missing")
    return wrong


def check(run: Path) -> tuple[list[str], str]:
    """One line per file that differs from the manifest or the preset's expected hashes; and a summary."""
    manifest = read_manifest(run)
    own, preset = manifest.files(), manifest.preset
    wrong = compare(run, own)
    known = expected(preset) if preset else None
    if known is None:
        return wrong, f"{len(own)} artefacts are as the run's manifest says"
    shared = {name: digest for name, digest in known.items() if name in own}
    wrong += [f"{name}: {own[name][:16]}, expected {d[:16]}" for name, d in shared.items() if own[name] != d]
    return wrong, f"{len(own)} artefacts, {len(shared)} of them the expected ones of preset {preset}"


def expected(preset: str) -> dict[str, str] | None:
    """The expected hashes of a preset, which ``instahide-nb verify RUN --record`` makes; None if there are none."""
    path = EXPECTED / f"{preset}.json"
    return dict(read_json(path)["files"]) if path.is_file() else None


def record_expected(run: Path) -> Path:
    """Make a run's hashes the expected ones of its preset, whose parameters it must have."""
    manifest = read_manifest(run)
    if not manifest.preset:
        raise InputError(f"{run}: its parameters are not those of a preset; reproduce one without -p")
    path = make_folder(EXPECTED) / f"{manifest.preset}.json"
    write_json(path, {"preset": manifest.preset, "files": manifest.files()})
    return path
