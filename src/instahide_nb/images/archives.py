"""Archives of data sets: found on the disk or fetched, and read without trusting what is in them."""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from instahide_nb.errors import InputError
from instahide_nb.images.cache import cache_folder
from instahide_nb.progress import progress
from instahide_nb.storage import make_folder

__all__ = ["fetch", "find_place", "tar_members"]


def find_place(root: Path, folder: str, archive: str, mark: str, word: str) -> Path:
    """The extracted folder or the archive at `root`, or in it."""
    for place in (root, root / folder):
        if (place / mark).exists():
            return place
    for place in (root, root / archive):
        if place.is_file():
            return place
    raise InputError(f"{word}: {root} holds neither {folder}/{mark} nor {archive}; name the folder that does")


def fetch(url: str, md5: str, word: str, cache_dir: Path | str | None) -> Path:
    import logging

    import pooch

    name = url.rsplit("/", 1)[1]
    folder = make_folder(cache_folder(cache_dir) / "archives")
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # Written under a temporary name and renamed once its md5 is right; an interrupted fetch starts again.
        return Path(pooch.retrieve(url, f"md5:{md5}", fname=name, path=folder, progressbar=_bar(name)))
    except ValueError:
        raise InputError(
            f"{word}: what {url} sent has another md5 than {md5}; try again, or put the file in a folder "
            f"and write {word}:FOLDER"
        ) from None
    except Exception as error:
        # requests, urllib3 and the operating system each have their own errors for "no connection".
        raise InputError(
            f"{word}: {url} cannot be fetched ({type(error).__name__}); when offline, put {name} in a "
            f"folder and write {word}:FOLDER, or use embedded"
        ) from None
    finally:
        logger.setLevel(level)


def _bar(name: str) -> Any:
    bar = progress(total=1, desc=name, unit="B")
    bar.unit_scale = True
    return bar


def tar_members(archive: Path, word: str) -> Iterator[tuple[PurePosixPath, Callable[[int], bytes]]]:
    """The plain files of a tar archive, each with a function that reads it up to a limit in bytes.

    Raises
    ------
    InputError
        When the archive is damaged, or holds links, devices, or paths that lead outside of it.
    """
    with _damage(archive, word), tarfile.open(archive, "r:*") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f"{archive}: holds {member.name!r}, which leads outside; fetch {word} again")
            if member.isdir():
                continue
            if not member.isreg():
                raise InputError(f"{archive}: holds {member.name!r}, a link or device; fetch {word} again")

            def read(most: int, member: tarfile.TarInfo = member) -> bytes:
                with _damage(archive, word):
                    stream = tar.extractfile(member)
                    if member.size > most or stream is None:
                        raise InputError(f"{archive}: {member.name!r} is too large; fetch {word} again")
                    data = stream.read()
                    if len(data) != member.size:
                        raise EOFError
                    return data

            yield path, read
        # To the very end, where gzip keeps its checksum: altered bytes would pass otherwise.
        while tar.fileobj is not None and tar.fileobj.read(2**20):
            pass


@contextlib.contextmanager
def _damage(archive: Path, word: str) -> Iterator[None]:
    """Turns whatever a damaged archive raises into one line."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file; check the path") from None
    except Exception:
        # tarfile, gzip and zlib each have their own errors for a file that is cut short or altered.
        raise InputError(
            f"{archive}: is not a readable archive, or is cut short; fetch {word} again"
        ) from None
