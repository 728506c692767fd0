"""How the stages of the published attack are done: as published, or in a way of our own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError

__all__ = ["PUBLISHED", "Labels", "Matching", "Settings", "Similarity", "Start"]

Labels = Literal["groups", "matching"]
Matching = Literal["optimal", "greedy"]
Start = Literal["published", "spectral"]

Similarity = Callable[[Release, npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""``similarity(release, public)``: one number for each pair of encryptions, float32 (n, n)."""


@dataclass(frozen=True)
class Settings:
    """How the stages are done.

    Attributes
    ----------
    similarity : "energy", "network", a file of weights (".npy") or callable
        See `instahide_nb.attacks.carlini.similarity`.
    labels : {"groups", "matching"}
        Where labels are used first: when groups grow (ours), or only in the matching (as published).
    matching : {"optimal", "greedy"}
        Minimum-cost matching, or the published code's greedy step.
    start : {"published", "spectral"}
        Where the descent starts: at zero and with a push away from it, or at the spectral solution (ours).
    iterations : int
        Of the gradient descent; 1000 as published.
    cleanings : int
        Rounds of the final cleaning step, with a descent between each two; 0 for ver.2.

    Raises
    ------
    InputError
        When a word is not known or a number too small.
    """

    similarity: str | Similarity = "energy"
    labels: Labels = "groups"
    matching: Matching = "optimal"
    start: Start = "published"
    iterations: int = 1000
    cleanings: int = 0

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            known = get_args(words)
            if getattr(self, name) not in known:
                raise InputError(f"{name}: {getattr(self, name)!r} is not known; choose {' or '.join(known)}")
        if self.iterations < 1 or self.cleanings < 0:
            raise InputError(
                f"iterations, cleanings: {self.iterations}, {self.cleanings} are too few; give 1, 0 or more"
            )

    def as_dict(self) -> dict[str, str | int]:
        """The settings as JSON can hold them: a function by its name, a file without its folders."""
        if isinstance(self.similarity, str):
            name = self.similarity.replace("\\", "/").rpartition("/")[2]
        else:
            name = getattr(self.similarity, "__name__", "function")
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"similarity": name}


_WORDS = {"labels": Labels, "matching": Matching, "start": Start}

PUBLISHED = Settings(labels="matching", matching="greedy")
"""Every step as in the published code, but for the similarity and the weights of the colour curve."""
