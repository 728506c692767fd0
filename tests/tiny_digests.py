"""Makes the tiny challenge, attacks it and draws its grid in this process; prints one sha256 each as JSON.

Run by test_same_bits.py in processes that differ in processor features, libraries' kernels, threads and surroundings.
"""

from __future__ import annotations

import json
import sys

from numpy._core import _multiarray_umath as umath

from instahide_nb.attack.registry import run_attack
from instahide_nb.challenge import build_challenge
from instahide_nb.drawing.grids import comparison_grid
from instahide_nb.metrics import score
from instahide_nb.params import AttackParams, GenDataParams
from instahide_nb.patches import public_patches
from instahide_nb.storage import sha256_array


def digests() -> dict[str, str]:
    """One sha256 for each array of the tiny preset that is the same on any machine."""
    challenge, wanted = build_challenge(GenDataParams()), AttackParams()
    release, secret = challenge.release, challenge.secret
    result = run_attack("unmask", release, public_patches(wanted.public_source, wanted.n_public))
    scores = score(result.decryption, secret.private, secret.pair)
    grid = comparison_grid(release.encryption, result.decryption, secret.private, secret.pair, scores)
    arrays = {
        "encryption": release.encryption,
        "label": release.label,
        "decryption": result.decryption,
        "recovered": result.recovered,
        "assignment": result.assignment,
        "per_encryption": scores.per_encryption,
        "grid": grid,
    }
    return {name: sha256_array(array) for name, array in arrays.items()}


if __name__ == "__main__":
    features = [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)]
    json.dump({"features": features, "digests": digests()}, sys.stdout)
