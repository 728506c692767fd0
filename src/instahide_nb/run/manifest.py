"""The sha256 of everything that a run made: recorded after each stage, recomputed by anyone, compared.

``RUN/manifest.json`` names every artefact that is the same on any machine. Arrays and JSON are hashed as files, as
``sha256sum`` does; pictures by their pixels, since PNG bytes depend on the compressor's version. Files that hold times
(``attack.json``, notebooks, the leaderboard) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import read_json, sha256_array, sha256_file, write_json

MANIFEST = "manifest.json"
_STAGES = {
    "gen_data": ("release/*.npy", "release/release.json", "secret/*.npy"),
    "attack": ("decryption.npy", "recovered.npy", "assignment.npy"),
    "evaluate": ("metrics.json", "per_encryption.npy", "comparison_grid.png", "overview.png"),
}


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
        raise InputError(f"{path}: is not a readable picture; make it again")
    return sha256_array(pixels)


def digests(run: Path, stage: str) -> dict[str, str]:
    """The hashes of the artefacts of "gen_data", "attack/METHOD" or "evaluate/METHOD", by path within the run."""
    kind = stage.partition("/")[0]
    folder = run if kind == "gen_data" else run / stage
    found = sorted(path for pattern in _STAGES[kind] for path in folder.glob(pattern))
    return {path.relative_to(run).as_posix(): artefact_digest(path) for path in found}


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a run; an empty one if it has none yet.

    Raises
    ------
    InputError
        If the file is not a manifest.
    """
    path = run / MANIFEST
    if not path.exists():
        return {"preset": None, "stages": {}}
    content = read_json(path)
    stages = content.get("stages")
    if not isinstance(stages, dict) or not all(map(_is_stage, stages.values())):
        raise InputError(f"{path}: is not a manifest; delete it and run again")
    return content


def _is_stage(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("parameters"), dict):
        return False
    found = entry.get("files")
    return isinstance(found, dict) and all(isinstance(digest, str) for digest in found.values())


def files_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The hashes of all stages, by path within the run."""
    return {name: digest for stage in manifest["stages"].values() for name, digest in stage["files"].items()}


def begin_stage(run: Path, stage: str) -> None:
    """Note that a stage has begun, until :func:`record_stage` notes that it is complete."""
    write_json(run / MANIFEST, read_manifest(run) | {"begun": stage})


def begun(run: Path) -> str | None:
    """The stage that has begun and never became complete, because its run was killed."""
    stage = read_manifest(run).get("begun")
    return stage if isinstance(stage, str) else None


def record_stage(run: Path, stage: str, parameters: dict[str, Any], preset: str | None) -> dict[str, str]:
    """Hash a complete stage and note it in the manifest; stages made from files that have changed are dropped.

    Parameters
    ----------
    parameters : dict
        What the stage was run with, without seed and key.
    preset : str or None
        The preset's name if nothing of it was changed.
    """
    stages, found = read_manifest(run)["stages"], digests(run, stage)
    if stage in stages and stages[stage]["files"] != found:
        kind, _, method = stage.partition("/")
        above = {"gen_data": ("attack/", "evaluate/"), "attack": (f"evaluate/{method}",)}.get(kind, ())
        stages = {name: entry for name, entry in stages.items() if not name.startswith(above)}
    stages[stage] = {"parameters": parameters, "files": found}
    write_json(run / MANIFEST, {"preset": preset, "stages": stages})
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
    """Compare a run with its manifest, and with the expected hashes of its preset if there are any.

    Returns
    -------
    wrong : list of str
        One line for each difference.
    compared : str
        What was compared with what.
    """
    manifest = read_manifest(run)
    own, preset = files_of(manifest), manifest.get("preset")
    wrong = compare(run, own)
    known = expected(preset) if preset else None
    if known is None:
        return wrong, f"{len(own)} artefacts are as the run's manifest says"
    shared = {name: digest for name, digest in known.items() if name in own}
    wrong += [f"{name}: {own[name][:16]}, expected {d[:16]}" for name, d in shared.items() if own[name] != d]
    return wrong, f"{len(own)} artefacts, {len(shared)} of them the expected ones of preset {preset}"


def _expected_path(preset: str) -> Path:
    return Path(str(files("instahide_nb.run"))) / "expected" / f"{preset}.json"


def expected(preset: str) -> dict[str, str] | None:
    """The expected hashes of a preset, which ``instahide-nb verify RUN --record`` makes; None if there are none."""
    path = _expected_path(preset)
    return dict(read_json(path)["files"]) if path.is_file() else None


def record_expected(run: Path) -> Path:
    """Make a run's hashes the expected ones of its preset.

    Raises
    ------
    InputError
        If the run is not of an unchanged preset.
    """
    manifest = read_manifest(run)
    preset = manifest.get("preset")
    if not preset:
        raise InputError(f"{run}: its parameters are not those of a preset; reproduce one without -p")
    path = _expected_path(preset)
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"preset": preset, "files": files_of(manifest)})
    return path
