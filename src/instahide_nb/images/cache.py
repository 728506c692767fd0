"""The folder where work that can be done again is kept between runs: crop tables and fetched archives."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(cache_dir: Path | str | None = None) -> Path:
    """The cache folder: `cache_dir`, else ``$INSTAHIDE_NB_CACHE``, else the user's cache.

    The user's cache is ``$XDG_CACHE_HOME/instahide_nb``, by default ``~/.cache/instahide_nb`` (XDG base
    directory specification). The folder is not made here. Everything in it may be deleted at any time.

    Examples
    --------
    >>> str(cache_folder("elsewhere"))
    'elsewhere'
    """
    if cache_dir is not None:
        return Path(cache_dir)
    if own := os.environ.get("INSTAHIDE_NB_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    # The specification says that a relative path is to be ignored.
    if base and os.path.isabs(base):
        return Path(base) / "instahide_nb"
    return Path("~/.cache").expanduser() / "instahide_nb"
