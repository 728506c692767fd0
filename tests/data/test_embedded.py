"""The embedded photographs: genuine, and cut so that private, public and the attacker's regions never meet."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_array
from instahide_nb.data import embedded
from instahide_nb.data.embedded import (
    CLASS_NAMES,
    PHOTOGRAPHS,
    PRIVATE,
    PUBLIC,
    Region,
    photograph_path,
    private_crops,
    public_regions,
)
from instahide_nb.data.photographs import open_photograph

PRIVATE_REGIONS = [
    Region(photo, square.x, square.y, square.side, square.side)
    for photo, squares in PRIVATE.values()
    for square in squares
]
ALL_REGIONS = [*PRIVATE_REGIONS, *PUBLIC["challenge"], *PUBLIC["attacker"]]


def overlap(a: Region, b: Region) -> bool:
    return (
        a.photo == b.photo
        and a.x < b.x + b.width
        and b.x < a.x + a.width
        and a.y < b.y + b.height
        and b.y < a.y + a.height
    )


@pytest.mark.parametrize("name", sorted(PHOTOGRAPHS))
def test_every_photograph_is_used_and_has_the_bytes_that_were_cut(name: str) -> None:
    assert photograph_path(name).is_file()
    assert name in {region.photo for region in ALL_REGIONS}


@pytest.mark.parametrize("region", ALL_REGIONS, ids=str)
def test_every_region_lies_inside_its_photograph(region: Region) -> None:
    photo = open_photograph(photograph_path(region.photo))
    assert region.x >= 0
    assert region.y >= 0
    assert region.x + region.width <= photo.width
    assert region.y + region.height <= photo.height


def test_no_two_private_crops_overlap() -> None:
    assert not [pair for pair in itertools.combinations(PRIVATE_REGIONS, 2) if overlap(*pair)]


def test_private_and_public_crops_come_from_different_photographs() -> None:
    public = {region.photo for regions in PUBLIC.values() for region in regions}
    assert public.isdisjoint({region.photo for region in PRIVATE_REGIONS})


def test_the_attackers_regions_do_not_overlap_the_challenges() -> None:
    pairs = itertools.product(PUBLIC["challenge"], PUBLIC["attacker"])
    assert not [pair for pair in pairs if overlap(*pair)]


def test_no_object_of_the_stereo_pair_is_seen_on_both_sides() -> None:
    # The pixel at column x of the left photograph is at column x - d of the right one; d is its measured disparity.
    disparity = np.load(photograph_path("motorcycle_left.png").with_name("motorcycle_disp.npz"))["arr_0"]
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


def test_the_private_pool_has_ten_classes_of_ten() -> None:
    images, labels = private_crops()
    assert images.shape == (100, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [10] * 10
    assert len(set(CLASS_NAMES)) == 10


def test_the_private_pool_has_the_same_bits_everywhere() -> None:
    expected = "fe386a9c14fc1549059fc1089276d09bf4ae2a3431802cbd7b41b5d0f3e71153"
    assert sha256_array(private_crops()[0]) == expected


def test_every_private_image_has_contrast() -> None:
    grey = private_crops()[0].mean(axis=3).reshape(100, -1)
    assert grey.std(axis=1).min() > 10


def test_no_two_private_images_look_alike() -> None:
    images = private_crops()[0].astype(float)
    # Without the mean colour, which crops of one photograph share.
    correlation = np.corrcoef((images - images.mean(axis=(1, 2), keepdims=True)).reshape(100, -1))
    assert correlation[np.triu_indices(100, 1)].max() < 0.8


def test_most_private_images_are_in_colour() -> None:
    images = private_crops()[0].astype(int)
    coloured = (images.max(axis=3) - images.min(axis=3)).mean(axis=(1, 2)) > 5
    assert coloured.mean() >= 0.75


@pytest.mark.parametrize("holder", ["challenge", "attacker"])
def test_public_regions_are_what_the_table_says(holder: str) -> None:
    photos = public_regions(holder)
    assert len({photo.name for photo in photos}) == len(PUBLIC[holder])
    for photo, region in zip(photos, PUBLIC[holder], strict=True):
        whole = open_photograph(photograph_path(region.photo)).read()
        cut = whole[region.y : region.y + region.height, region.x : region.x + region.width]
        assert np.array_equal(photo.read(), cut)


def test_an_altered_photograph_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    altered = tmp_path / "data" / "coffee.png"
    shutil.copy(photograph_path("coffee.png"), altered)
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: Spec)
    with pytest.raises(InputError, match=r"coffee\.png: is not the photograph that scikit-image ships"):
        photograph_path.__wrapped__("coffee.png")
    with pytest.raises(InputError, match=r"does not hold data/rocket\.jpg"):
        photograph_path.__wrapped__("rocket.jpg")


def test_nothing_of_scikit_image_runs_or_downloads() -> None:
    import subprocess
    import sys

    code = (
        "import sys, socket\n"
        "socket.socket = None\n"
        "from instahide_nb.data.embedded import private_crops, public_regions\n"
        "private_crops(); [photo.read() for photo in public_regions('attacker')]\n"
        "assert 'skimage.data' not in sys.modules and 'pooch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
