"""Runs the attack notebook's cells under an audit hook that refuses secrets; prints what was opened as JSON.

``python watched_attacks.py PUBLIC RUN ...``, in a process of its own since a hook cannot be taken away. The first run
has secrets in it. To refuse in the hook is stricter than permissions, which the superuser does not feel.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from conftest import SEED
from forked_runs import run_cells

from instahide_nb.core.params import AttackParams

METHODS = ("unmask", "prng-state", "prng-seed", "carlini-v2", "carlini-v1")
_SECRET = ("private", "private_label", "pair", "coefficient", "public", "public_index", "mask")
SECRET_NAMES = {"gen_data.ipynb", "secret.json", *(f"{name}.npy" for name in _SECRET)}


def watch(top: Path, opened: list[str]) -> None:
    """Note each file below a folder that is opened, and refuse a secret one."""
    start = str(top) + os.sep

    def hook(event: str, values: tuple[object, ...]) -> None:
        if event != "open" or not isinstance(values[0], str | bytes):
            return
        path = os.path.realpath(os.fsdecode(values[0]))
        if not path.startswith(start):
            return
        opened.append(path.removeprefix(start))
        *folders, name = opened[-1].split(os.sep)
        if "secret" in [*folders, name] or name in SECRET_NAMES:
            raise PermissionError(13, "refused by the test", path)

    sys.addaudithook(hook)


def refused(path: Path) -> bool:
    """Whether a file cannot be read."""
    try:
        path.read_bytes()
    except PermissionError:
        return True
    return False


def main() -> None:
    """Attack each run with each method."""
    public, first, *others = sys.argv[1:]
    runs, opened = [Path(run).resolve() for run in (first, *others)], list[str]()
    watch(runs[0].parent, opened)
    assert all(refused(runs[0] / name) for name in ("secret/private.npy", "release/pair.npy"))
    opened.clear()
    stdout, sys.stdout = sys.stdout, sys.stderr
    for run in runs:
        for method in METHODS:
            wanted = AttackParams(
                **{"release_dir": "release", "out_dir": f"attack/{method}", "method": method}
                | {"public_source": public, "n_public": 50}
                | {"seed_start": SEED - 500, "seed_stop": SEED + 500}
            )
            run_cells("attack", wanted.as_dict(), run / "attack" / method / "attack.ipynb", cwd=run)
    json.dump(opened, stdout)


if __name__ == "__main__":
    main()
