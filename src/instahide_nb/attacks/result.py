"""What an attack returns, and its files: the same for every method."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instahide_nb.challenge.release import Release
from instahide_nb.core.arrays import Float32, Int64
from instahide_nb.core.files import make_folder, save_array, write_json
from instahide_nb.core.runs import machine_line
from instahide_nb.scheme.encryption import pixel_bytes, pixel_values

Json = dict[str, Any]


@dataclass(frozen=True)
class AttackResult:
    """Images that an attack recovered, and how."""

    method: str  # the attack's name
    recovered: Float32  # (N, h, w, 3): the private images, in [-1, 1]
    assignment: Int64  # (n, p): which of them each encryption holds; -1 where unknown
    decryption: Float32  # (n, h, w, 3): one image per encryption, see `on_the_grid`
    complexity: str  # in the challenge's notation, E being the number of encryptions: "O(E)"
    seconds: dict[str, float] = field(default_factory=dict)  # wall time of each stage
    details: Json = field(default_factory=dict)  # further results for JSON; never times
    recovered_generator: bool | None = None  # False: not found, and so no decryption; None: not looked for
    reason: str = ""  # why the generator was not found, in one line
    extras: Json = field(default_factory=dict)  # for the notebook, such as the `history` of images; not saved
    coefficient: Float32 | None = None  # (n, p): of the images in `assignment`, if the attack estimates them

    @classmethod
    def not_found(
        cls, method: str, complexity: str, reason: str, release: Release, seconds: dict[str, float], details: Json
    ) -> AttackResult:
        """The result of an attack that did not find the generator: no images, every assignment unknown (-1)."""
        none = np.zeros((0, *release.encryption.shape[1:]), np.float32)
        unknown = np.full((len(release.encryption), release.info.private_per_row), -1, np.int64)
        return cls(method, none, unknown, none, complexity, seconds, details, False, reason)


def on_the_grid(images: npt.NDArray[np.floating[Any]]) -> Float32:
    """The nearest values that a uint8 pixel can have: 2u/255 - 1.

    Examples
    --------
    >>> on_the_grid(np.array([-1.2, -0.999, 0.0, 1.0]))
    array([-1.        , -1.        ,  0.00392157,  1.        ], dtype=float32)
    """
    return pixel_values(pixel_bytes(images))


def save_result(folder: Path | str, result: AttackResult) -> None:
    """Write ``decryption.npy``, ``recovered.npy``, ``assignment.npy``, ``coefficient.npy`` and, last, ``attack.json``.

    If the generator was not found, write only ``attack.json``, with ``"recovered": false`` and ``"reason"``, and remove
    arrays of an earlier run.
    """
    folder = make_folder(folder)
    found = result.recovered_generator is not False
    for name in ("decryption", "recovered", "assignment", "coefficient"):
        array = getattr(result, name)
        if found and array is not None:
            save_array(folder / f"{name}.npy", array)
        else:
            (folder / f"{name}.npy").unlink(missing_ok=True)
    content: Json = {
        "method": result.method,
        "complexity": result.complexity,
        "seconds": {name: round(float(value), 3) for name, value in result.seconds.items()},
        "platform": machine_line(),
        "details": result.details,
    }
    if result.recovered_generator is not None:
        content["recovered"] = result.recovered_generator
    if not found:
        content["reason"] = result.reason
    write_json(folder / "attack.json", content)
