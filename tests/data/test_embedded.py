"""The embedded photographs: genuine, and cut so that private, public and the attacker's regions never meet."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_array
from instahide_nb.data import embedded
from instahide_nb.data.embedded import PHOTOGRAPHS, PRIVATE, photographs, private_crops, public_regions
from instahide_nb.data.photographs import open_photograph


class Region(NamedTuple):
    photo: str
    x: int
    y: int
    width: int
    height: int


SQUARES = [Region(photo, x, y, side, side) for photo, squares in PRIVATE.values() for x, y, side in squares]
PUBLIC = {
    holder: [Region(p.path.name, *p.corner, p.width, p.height) for p in public_regions(holder)]
    for holder in ("challenge", "attacker")
}


def overlap(a: Region, b: Region) -> bool:
    across = a.x < b.x + b.width and b.x < a.x + a.width
    return a.photo == b.photo and across and a.y < b.y + b.height and b.y < a.y + a.height


def test_regions_lie_inside_their_photographs_and_private_public_and_the_attackers_never_meet() -> None:
    assert not [pair for pair in itertools.combinations(SQUARES, 2) if overlap(*pair)]
    assert not [pair for pair in itertools.product(PUBLIC["challenge"], PUBLIC["attacker"]) if overlap(*pair)]
    public, private = {r.photo for rs in PUBLIC.values() for r in rs}, {r.photo for r in SQUARES}
    assert public.isdisjoint(private)
    assert public | private == set(PHOTOGRAPHS), "every photograph is used"
    sizes = {name: open_photograph(photographs() / name) for name in PHOTOGRAPHS}
    for region in (*SQUARES, *PUBLIC["challenge"], *PUBLIC["attacker"]):
        assert 0 <= region.x <= region.x + region.width <= sizes[region.photo].width
        assert 0 <= region.y <= region.y + region.height <= sizes[region.photo].height


def test_no_object_of_the_stereo_pair_is_seen_on_both_sides() -> None:
    # The pixel at column x of the left photograph is at column x - d of the right one; d is its measured disparity.
    disparity = np.load(photographs() / "motorcycle_disp.npz")["arr_0"]
    known = np.isfinite(disparity)
    column = np.broadcast_to(np.arange(disparity.shape[1]), disparity.shape)
    in_right = column - np.where(known, disparity, 0)

    def columns(holder: str, photo: str) -> tuple[int, int]:
        spans = [(r.x, r.x + r.width) for r in PUBLIC[holder] if r.photo == photo]
        return min(start for start, _ in spans), max(stop for _, stop in spans)

    for one, other in (("challenge", "attacker"), ("attacker", "challenge")):
        start, stop = columns(one, "motorcycle_left.png")
        mine = known & (column >= start) & (column < stop)
        assert mine.any()
        low, high = columns(other, "motorcycle_right.png")
        assert not (mine & (in_right > low - 1) & (in_right < high)).any()


def test_the_private_pool() -> None:
    images, labels, names = private_crops()
    expected = "fe386a9c14fc1549059fc1089276d09bf4ae2a3431802cbd7b41b5d0f3e71153"
    assert sha256_array(images) == expected, "the same bits everywhere"
    assert (images.shape, images.dtype) == ((100, 32, 32, 3), np.uint8)
    assert (np.bincount(labels).tolist(), len(set(names))) == ([10] * 10, 10)


def test_an_altered_photograph_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for name in PHOTOGRAPHS:
        shutil.copy(photographs() / name, tmp_path / "data" / name)
    altered = tmp_path / "data" / "coffee.png"
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")

    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(InputError, match="does not contain scikit-image's photographs"):
        embedded.photographs.__wrapped__()


def test_nothing_of_scikit_image_runs_or_downloads() -> None:
    code = (
        "import sys, socket\n"
        "socket.socket = None\n"
        "from instahide_nb.data.embedded import private_crops, public_regions\n"
        "private_crops(); [photo.read() for photo in public_regions('attacker')]\n"
        "assert 'skimage.data' not in sys.modules and 'pooch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
