"""One evaluation: what comes with a decryption, and the files that scoring it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, make_folder, save_array, sha256_array, write_json
from instahide_nb.evaluate.leaderboard import Row, measured_row
from instahide_nb.evaluate.metrics import Scores
from instahide_nb.evaluate.submission import load_attack_info


@dataclass(frozen=True)
class AboutAttack:
    """What an attack wrote beside its decryption."""

    details: dict[str, object] = field(default_factory=dict)  # the content of attack.json
    recovered: npt.NDArray[np.float32] | None = None  # (m, h, w, 3), the recovered images


def about_attack(decryption: Path | str) -> AboutAttack:
    """Read ``attack.json`` (also from a zip) and ``recovered.npy``; what is missing or damaged is left out."""
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
    out: Path | str, name: str, scores: Scores | None, release: Release, attack: AboutAttack = AboutAttack()
) -> Row:
    """Write ``per_encryption.npy``, ``metrics.json`` and the attack's row of the leaderboard, ``row.json``.

    Without scores (an attack that did not find the generator) only the row is written. The row names the release by
    the hash of its encryptions.
    """
    out = make_folder(out)
    metrics = None if scores is None else scores.metrics()
    if scores is not None:
        save_array(out / "per_encryption.npy", scores.per_encryption)
        write_json(out / "metrics.json", metrics)
    digest = sha256_array(release.encryption)
    row = measured_row(metrics, attack.details, challenge=digest, name=name, info=release.info)
    write_json(out / "row.json", row.as_dict())
    return row
