"""What a run made, by sha256: recorded after each stage, recomputed by anyone, compared with expected values.

``RUN/manifest.json`` names every artefact that is the same on any machine. Arrays and JSON are hashed as files, as
``sha256sum`` would; pictures by their pixels, since PNG bytes depend on the compressor's version. Files with
times in them (``attack.json``, notebooks, the leaderboard) are left out.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import read_json, sha256_array, sha256_file, write_json

__all__ = [
    "artefact_digest",
    "begin_stage",
    "begun",
    "compare",
    "digests",
    "expected",
    "read_manifest",
    "record_expected",
    "record_stage",
]

_STAGES = {
    "gen_data": ("release/*.npy", "release/release.json", "secret/*.npy"),
    "attack": ("decryption.npy", "recovered.npy", "assignment.npy"),
    "evaluate": ("metrics.json", "per_encryption.npy", "comparison_grid.png", "overview.png"),
}
MANIFEST = "manifest.json"


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
        raise InputError(f"{path}: is not a picture that can be read; make it again")
    return sha256_array(pixels)


def digests(run: Path, stage: str) -> dict[str, str]:
    """The hashes of a stage's artefacts, by path within the run.

    Parameters
    ----------
    run : Path
        The run's folder.
    stage : str
        "gen_data", "attack/METHOD" or "evaluate/METHOD".
    """
    kind = stage.partition("/")[0]
    folder = run if kind == "gen_data" else run / stage
    found = sorted(path for pattern in _STAGES[kind] for path in folder.glob(pattern))
    return {path.relative_to(run).as_posix(): artefact_digest(path) for path in found}


def read_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a run; an empty one where there is none yet.

    Raises
    ------
    InputError
        When the file is there but is not a manifest.
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


def begin_stage(run: Path, stage: str) -> None:
    """Note that a stage was begun, until :func:`record_stage` notes that it is whole."""
    manifest = read_manifest(run)
    write_json(run / MANIFEST, manifest | {"begun": stage})


def begun(run: Path) -> str | None:
    """The stage that :func:`begin_stage` noted and that never became whole: its run was killed."""
    stage = read_manifest(run).get("begun")
    return stage if isinstance(stage, str) else None


def record_stage(run: Path, stage: str, parameters: dict[str, Any], preset: str | None) -> dict[str, str]:
    """Hash a finished stage and note it in the manifest.

    Stages that were made of other files than those that are there now are noted no longer.

    Parameters
    ----------
    parameters : dict
        What the stage was run with; the seed and key stay in ``secret/``.
    preset : str or None
        The preset's name when nothing of it was changed.
    """
    manifest = read_manifest(run)
    found = digests(run, stage)
    stages = manifest["stages"]
    if stage in stages and stages[stage]["files"] != found:
        kind, _, method = stage.partition("/")
        above = {"gen_data": ("attack/", "evaluate/"), "attack": (f"evaluate/{method}",)}.get(kind, ())
        stages = {name: entry for name, entry in stages.items() if not name.startswith(above)}
    stages[stage] = {"parameters": parameters, "files": found}
    write_json(run / MANIFEST, {"preset": preset, "stages": stages})
    return found


def compare(run: Path, wanted: dict[str, str]) -> list[str]:
    """What is wrong with a run's files, a line each; nothing when all is as it should be."""
    wrong = []
    for name, digest in sorted(wanted.items()):
        path = run / name
        if not path.exists():
            wrong.append(f"{name}: missing")
            continue
        try:
            found = artefact_digest(path)
        except InputError as error:
            wrong.append(str(error))
            continue
        if found != digest:
            wrong.append(f"{name}: {found[:16]}, expected {digest[:16]}")
    return wrong


def _expected_path(preset: str) -> Any:
    return files("instahide_nb.run") / "expected" / f"{preset}.json"


def expected(preset: str) -> dict[str, str] | None:
    """The expected hashes of a preset, or None where none are recorded.

    They are made by ``instahide-nb reproduce --preset NAME --out RUN`` and ``instahide-nb verify RUN --record``.
    """
    path = _expected_path(preset)
    return dict(read_json(str(path))["files"]) if path.is_file() else None


def record_expected(run: Path) -> Path:
    """Make a run's manifest the expected one of its preset.

    Raises
    ------
    InputError
        When the run is not of an unchanged preset.
    """
    manifest = read_manifest(run)
    preset = manifest.get("preset")
    if not preset:
        raise InputError(f"{run}: its parameters are not those of a preset; reproduce one without -p")
    found = {name: digest for stage in manifest["stages"].values() for name, digest in stage["files"].items()}
    path = Path(str(_expected_path(preset)))
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"preset": preset, "files": found})
    return path
