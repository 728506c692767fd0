"""The InstaHide Challenge, reproducible: encryption, attacks and evaluation.

Nothing heavy is imported here, so that the command line starts fast. Each folder is one layer, and imports only from
layers before it in this list: `core`, `scheme`, `data`, `challenge`, `attacks`, `evaluate`, `show`, `run`.
"""

import os

__version__ = "0.1.0"


def _writable(folder: str) -> bool:
    while not os.path.exists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return os.path.isabs(folder) and os.access(folder, os.W_OK | os.X_OK)


def _provide_numba_cache() -> None:
    """Give numba a temporary folder if it can keep compiled code neither beside its source nor in the user's cache.

    It would refuse to compile ("cannot cache function"). The folder is deleted at exit.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if "NUMBA_CACHE_DIR" in os.environ or _writable(os.path.dirname(__file__)) or _writable(cache):
        return
    import atexit
    import shutil
    import tempfile

    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="instahide_nb-")
    atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)


_provide_numba_cache()
