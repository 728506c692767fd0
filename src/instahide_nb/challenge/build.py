"""A whole challenge: private and public images in, release and secret out.

The secret half is enough to make the release again, bit for bit. Attacks never import this module.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instahide_nb.challenge.release import Release, ReleaseInfo, save_release
from instahide_nb.challenge.secret import SECRET_ARRAYS, Secret
from instahide_nb.core.arrays import Int8, UInt8
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import make_folder, read_json, save_array, write_json
from instahide_nb.core.params import GenDataParams
from instahide_nb.data.sources import private_images, public_patches, source_kind
from instahide_nb.scheme.encryption import Mixtures, class_coefficients, encrypt, pixel_bytes, pixel_values
from instahide_nb.scheme.streams import open_stream
from instahide_nb.scheme.views import draw_views


@dataclass(frozen=True)
class Challenge:
    """A release and the secret that belongs to it."""

    release: Release
    secret: Secret


def build_challenge(params: GenDataParams) -> Challenge:
    """Make a challenge; an InputError if a source cannot serve the parameters.

    Private images are chosen with a generator of their own, PCG64, seeded with the seed or key (by the operating system
    if those are drawn), since the order of draws in the encryption's stream is fixed.
    """
    p = params
    seed = int(p.key, 16) if p.key else p.seed if p.rng == "mt19937" and isinstance(p.seed, int) else None
    images, labels, class_names = private_images(p.private_source, p.n_private, generator=np.random.default_rng(seed))
    size = images.shape[1], images.shape[2]
    public = np.empty((0, *size, 3), np.uint8)
    if p.scheme == "cross":
        public = public_patches(p.public_source, p.n_public, min_keypoints=p.min_keypoints, size=size)
    mixtures, start = _encrypt(p, images, public, {})
    pair = mixtures.index[:, : p.private_per_row].astype(np.int64)
    views = _views(p, start)
    parameters = {name: value for name, value in p.as_dict().items() if name not in ("out_dir", "key")}
    secret = Secret(
        private=images,
        private_label=labels,
        pair=pair,
        coefficient=mixtures.coefficient,
        public=public,
        public_index=mixtures.index[:, p.private_per_row :].astype(np.int64),
        mask=mixtures.mask,
        view=None if views is None else views[np.arange(len(pair))[:, None] // p.n_private, pair],
        info={"parameters": parameters, "start": start, "class_names": list(class_names)},
    )
    return Challenge(_publish(p, mixtures, secret), secret)


def regenerate(secret: Secret) -> Release:
    """Make the release again, bit for bit, from the secret half: images, seed and parameters."""
    params = GenDataParams(**secret.info["parameters"])
    mixtures, _ = _encrypt(params, secret.private, secret.public, secret.info["start"])
    return _publish(params, mixtures, secret)


def _encrypt(p: GenDataParams, private: UInt8, public: UInt8, start: dict[str, Any]) -> tuple[Mixtures, dict[str, Any]]:
    """The mixtures, and the start of their stream: `start`, or a new one if that is empty."""
    stream = open_stream(p.rng, seed=p.seed, key=start.get("key", p.key), states=start.get("states"))
    begun = stream.secret()
    if p.augment != "none" and "states" in begun:
        begun["views"] = start.get("views") or p.key or secrets.token_hex(16)
    return encrypt(private, public, stream, p, _views(p, begun)), begun


def _views(p: GenDataParams, start: dict[str, Any]) -> Int8 | None:
    """Views of all private images in all epochs, (epochs, N, 3)."""
    if p.augment == "none":
        return None
    drawn = start.get("views") or start.get("key")
    return draw_views(p.augment, int(drawn, 16) if drawn else start["seed"], p.encryptions_per_image, p.n_private)


def _publish(params: GenDataParams, mixtures: Mixtures, secret: Secret) -> Release:
    """The encryptions, their labels and every parameter but seed, key and paths."""
    class_names, label = tuple(secret.info["class_names"]), None
    p = params.private_per_row
    weight, images = mixtures.weight[:, :p], (mixtures.index[:, :p], secret.private_label, len(class_names))
    if params.labels == "coefficients":
        label = class_coefficients(weight, *images)
    elif params.labels == "classes":  # images whose coefficient is rounded to 0 count too
        label = (class_coefficients(np.ones_like(weight), *images) > 0).astype(np.float32)
    public = {name: value for name, value in params.as_dict().items() if name in ReleaseInfo.names()} | {
        "n_public": params.n_public if params.scheme == "cross" else 0,
        "private_source": source_kind(params.private_source),
        "public_source": source_kind(params.public_source),
        "class_names": () if label is None else class_names,
    }
    encryption = pixel_values(pixel_bytes(mixtures.encryption)) if params.eight_bits else mixtures.encryption
    return Release(encryption, label, ReleaseInfo(**public))


def save_challenge(run_dir: Path | str, challenge: Challenge) -> None:
    """Write ``secret/`` and ``release/`` of a run, ``release/release.json`` last.

    An InputError says that the folder cannot be written, or has another challenge that could not be made again.
    """
    run = make_folder(run_dir)
    _refuse_to_overwrite(run, challenge)
    secret = make_folder(run / "secret", secret=True)
    for name in SECRET_ARRAYS:
        if (array := getattr(challenge.secret, name)) is None:
            (secret / f"{name}.npy").unlink(missing_ok=True)
        else:
            save_array(secret / f"{name}.npy", array, secret=True)
    write_json(secret / "secret.json", challenge.secret.info, secret=True)
    save_release(run / "release", challenge.release)


def _refuse_to_overwrite(run: Path, challenge: Challenge) -> None:
    path = run / "secret" / "secret.json"
    if not path.exists() or not (run / "release" / "release.json").exists():
        return
    info = read_json(path)
    made_of = info.get("parameters")
    # Without parameters, the file may also be the only copy of a drawn seed.
    given = isinstance(made_of, dict) and made_of.get("seed") != "entropy" and made_of.get("rng") == "mt19937"
    if not given and info != challenge.secret.info:
        raise InputError(
            f"out_dir: {run} contains a challenge whose random seed is stored nowhere else; "
            "choose another folder, or delete this one"
        )


def first_difference(published: Release, again: Release) -> str | None:
    """The first row in which two releases differ, in words; None when every bit is the same."""
    if (published.label is None) != (again.label is None):
        return "label.npy belongs to only one of them"
    for name in ("encryption", "label")[: 1 if again.label is None else 2]:
        left, right = getattr(published, name), getattr(again, name)
        if left.shape != right.shape:
            return f"{name}.npy has shape {left.shape}, made again it has {right.shape}"
        differ = left.view(np.uint32) != right.view(np.uint32)  # as bits, where -0.0 is not 0.0
        rows = np.flatnonzero(differ.reshape(len(left), -1).any(axis=1))
        if len(rows):
            return f"{name}.npy, row {rows[0]} (and {len(rows) - 1} others)"
    return None
