"""Makes a preset's challenge, attacks, scores and draws it in this process and this folder; prints sha256s as JSON.

Run by matrix.py in processes that differ in processor features, libraries' kernels and versions, threads and
surroundings: ``python case_digests.py PRESET METHOD ... [--forms]``. The files are those of a run, so their hashes are
those of the expected manifest. Beside them it prints what shows that what should differ does.
"""

from __future__ import annotations

import hashlib
import json
import locale
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
import numpy.typing as npt
import scipy
import skimage
from numba.core.registry import cpu_target
from numpy._core import _multiarray_umath as umath

from instahide_nb.attacks.registry import run_attack
from instahide_nb.attacks.result import save_result
from instahide_nb.attacks.unmask.attack import Settings, count_private, solve
from instahide_nb.challenge.build import build_challenge, save_challenge
from instahide_nb.challenge.release import Release, load_release
from instahide_nb.core.files import read_json
from instahide_nb.core.params import AttackParams, GenDataParams, read_yaml
from instahide_nb.core.threads import one_blas_thread, thread_count
from instahide_nb.data.sources import public_patches
from instahide_nb.evaluate.leaderboard import save_evaluation
from instahide_nb.evaluate.metrics import match_images, score
from instahide_nb.run.manifest import digests
from instahide_nb.show import grids
from instahide_nb.show.grids import write_png


def run_digests(preset: str, methods: Sequence[str], forms: bool) -> dict[str, str]:
    """The hashes of a run by path, made by the functions that the notebooks call; with `forms` those of others too."""
    folder = Path(__file__).resolve().parents[1] / "params" / preset
    run, wanted = Path.cwd(), AttackParams(**read_yaml(folder / "attack.yaml"))
    challenge = build_challenge(GenDataParams(**read_yaml(folder / "gen_data.yaml")))
    save_challenge(run, challenge)
    release, secret = load_release(run / "release"), challenge.secret
    public = public_patches(wanted.public_source, wanted.n_public, size=release.encryption.shape[1:3])
    found = digests(run, "gen_data")
    for method in methods:
        attack, evaluate = run / "attack" / method, run / "evaluate" / method
        result = run_attack(
            method, release, public, seed_start=wanted.seed_start, seed_stop=wanted.seed_stop, workdir=attack
        )
        save_result(attack, result)
        scores = score(result.decryption, secret.private, secret.pair)
        save_evaluation(evaluate, method, scores, release, read_json(attack / "attack.json"))
        grid = grids.comparison_grid(release.encryption, result.decryption, secret.private, secret.pair, scores)
        write_png(evaluate / "comparison_grid.png", grid)
        if len(result.recovered) >= len(secret.private):
            write_png(
                evaluate / "overview.png",
                grids.overview(result.recovered, match_images(result.recovered, secret.private)),
            )
        found |= digests(run, f"attack/{method}") | digests(run, f"evaluate/{method}")
        if forms and method == "unmask":
            found |= other_forms(read_yaml(folder / "gen_data.yaml"), release, public)
    return found


def other_forms(preset: dict[str, Any], release: Release, public: npt.NDArray[np.uint8]) -> dict[str, str]:
    """What `unmask` finds from half of the encryptions alone, and from few encryptions of augmented images."""
    half = release.info.encryptions_per_image // 2
    info = release.info.changed(encryptions_per_image=half)
    alone = replace(release, encryption=release.encryption[: half * info.n_private], label=None, info=info)
    forms = {"without labels": alone}
    for augment in ("flip", "crop_flip"):
        few = GenDataParams(**preset | {"augment": augment, "encryptions_per_image": 10})
        forms[f"few, {augment}"] = build_challenge(few).release
    found = {"unmask, number of private images": str(count_private(release.with_images(2), public).info.n_private)}
    for form, own in forms.items():
        with one_blas_thread():  # as run_attack does: threads of OpenBLAS wait for each other
            result = solve(own, public, settings=Settings(rounds=1, shared_rounds=2))
        for name in ("recovered", "assignment", "signed", "confidence"):
            array = np.ascontiguousarray(getattr(result, name))
            found[f"unmask {form}, {name}"] = hashlib.sha256(array.tobytes()).hexdigest()
        assert result.details["cleaned_rounds"] or own is alone  # the network is part of what is compared
    return found


def surroundings() -> dict[str, Any]:
    """What this process sees of what a case changes."""
    locale.setlocale(locale.LC_ALL, "")
    _, processor, _ = cpu_target.target_context.codegen().magic_tuple()
    return {
        "numpy features": [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__.get(name)],
        "numba processor": processor,
        "opencv features": cv2.getCPUFeaturesLine().split(),
        "threads": thread_count(),
        "hash": hash("instahide"),
        "encoding": locale.nl_langinfo(locale.CODESET),
        "time zone": time.strftime("%z"),
        "versions": {module.__name__: module.__version__ for module in (np, scipy, numba, skimage, cv2)},
    }


if __name__ == "__main__":
    about = surroundings()
    preset, *methods = [word for word in sys.argv[1:] if word != "--forms"]
    json.dump({"surroundings": about, "digests": run_digests(preset, methods, "--forms" in sys.argv)}, sys.stdout)
