"""How far a scan has come, kept in a small file, so that an interrupted or killed scan goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import read_json, write_json

__all__ = ["Progress", "ScanMark"]

_NAME = "scan.json"


@dataclass(frozen=True)
class Progress:
    """Seeds below `next_seed` are done; what was seen among them.

    Attributes
    ----------
    next_seed, survivors, fitting : int
    """

    next_seed: int
    survivors: int = 0
    fitting: int = 0


@dataclass(frozen=True)
class ScanMark:
    """The file of one scan.

    Attributes
    ----------
    folder : Path or None
        Where ``scan.json`` is kept; None keeps nothing.
    scan : mapping
        What tells this scan from others: the labels' hash, the range. A file of another scan counts as none.
    """

    folder: Path | None
    scan: Mapping[str, object]

    def read(self, start: int, stop: int) -> Progress:
        """Where the scan of start .. stop-1 is to go on."""
        none = Progress(start)
        if self.folder is None or not (self.folder / _NAME).exists():
            return none
        try:
            kept = read_json(self.folder / _NAME)
            if kept.pop("scan") != dict(self.scan):
                return none
            found = Progress(**{name: int(value) for name, value in kept.items()})
        except (InputError, KeyError, TypeError, ValueError):
            return none  # a damaged file costs a scan from the beginning, no more
        return found if start <= found.next_seed <= stop and found.survivors >= found.fitting >= 0 else none

    def write(self, progress: Progress) -> None:
        """Note how far the scan has come."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / _NAME, {"scan": dict(self.scan), **vars(progress)})

    def remove(self) -> None:
        """The scan has ended."""
        if self.folder is not None:
            (self.folder / _NAME).unlink(missing_ok=True)
