"""The files of an evaluation: figures, values per encryption, and the attack's row of the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, make_folder, save_array, sha256_array, write_json
from instahide_nb.evaluate.leaderboard import Row, measured_row, save_row
from instahide_nb.evaluate.metrics import Scores
from instahide_nb.evaluate.submission import load_attack_info
from instahide_nb.show.grids import method_grid, write_png

__all__ = ["AboutAttack", "about_attack", "save_evaluation", "write_method_grid"]


@dataclass(frozen=True)
class AboutAttack:
    """What lies beside a decryption, where an attack of this package wrote it.

    Attributes
    ----------
    details : dict
        Content of ``attack.json``; empty for a decryption from elsewhere.
    recovered : (m, h, w, 3) float32 array or None
        The recovered images.
    """

    details: dict[str, Any] = field(default_factory=dict)
    recovered: npt.NDArray[np.float32] | None = None


def about_attack(decryption: Path | str) -> AboutAttack:
    """Read ``attack.json`` (also inside a submission's zip) and ``recovered.npy`` beside a decryption.

    What is missing or damaged is left out: a stranger's decryption may come alone.
    """
    try:
        details = load_attack_info(decryption)
    except InputError:
        details = {}
    try:
        beside = Path(decryption).parent / "recovered.npy"
        recovered = load_array(beside, dtype=np.float32, shape=(None, None, None, 3))
    except InputError:
        recovered = None
    return AboutAttack(details, recovered)


def save_evaluation(
    out: Path | str, name: str, scores: Scores, release: Release, attack: AboutAttack = AboutAttack()
) -> Row:
    """Write ``per_encryption.npy``, ``metrics.json`` and ``row.json``.

    Parameters
    ----------
    out : Path or str
        The folder; it is made.
    name : str
        The attack's name on the leaderboard.
    scores : Scores
        From :func:`instahide_nb.evaluate.metrics.score`.
    release : Release
        What was attacked; the row names it by the hash of its encryptions.
    attack : AboutAttack
        What the attack says of itself.

    Returns
    -------
    Row
        The attack's row; ``metrics.json`` holds no times, the row does.
    """
    out = make_folder(out)
    figures = scores.metrics()
    save_array(out / "per_encryption.npy", scores.per_encryption)
    write_json(out / "metrics.json", figures)
    about = attack.details | {"recovered_generator": attack.details.get("recovered")}
    note = str(attack.details.get("details", {}).get("reason", ""))
    row = measured_row(figures, about, challenge=sha256_array(release.encryption), name=name, note=note)
    save_row(out / "row.json", row)
    return row


def write_method_grid(run: Path, methods: Sequence[str]) -> Path | None:
    """Write ``methods.png``: the same private images as each attack of a run recovered them, a column an attack.

    Parameters
    ----------
    run : Path
        The run's folder.
    methods : sequence of str
        The folders' names in ``RUN/attack``, in the order of the columns.

    Returns
    -------
    Path or None
        The picture; None when fewer than two attacks recovered as many images as there are.
    """
    private = load_array(run / "secret" / "private.npy", dtype=np.uint8, shape=(None, None, None, 3))
    columns = {}
    for method in methods:
        recovered = about_attack(run / "attack" / method / "decryption.npy").recovered
        if recovered is not None and len(recovered) >= len(private):
            columns[method] = recovered
    if len(columns) < 2:
        return None
    write_png(run / "methods.png", method_grid(private, columns))
    return run / "methods.png"
