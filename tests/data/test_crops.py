"""Random crops and public patches: the draw, the SIFT filter, the counts that are kept, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array, sha256_array
from instahide_nb.data import crops
from instahide_nb.data.crops import LARGEST, count_key_points, draw_crops, grey_reader, key_points
from instahide_nb.data.embedded import public_regions
from instahide_nb.data.photographs import Photograph, reduce_area
from instahide_nb.data.sources import public_crops, public_patches

CARRIED = 6144


def sized(*pairs: tuple[int, int]) -> list[Photograph]:
    return [Photograph(f"{i}.png", Path(f"{i}.png"), *pair) for i, pair in enumerate(pairs)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with two busy photographs, one empty one and one that is too small."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    (folder / "busy").mkdir()
    for name, height, width in (("busy/a.png", 150, 210), ("busy/b.png", 120, 100)):
        blobs = random.integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
        Image.fromarray(blobs).resize((width, height), Image.Resampling.NEAREST).save(folder / name)
    Image.fromarray(np.full((100, 100, 3), 90, np.uint8)).save(folder / "empty.png")
    Image.fromarray(random.integers(0, 256, (63, 300, 3), dtype=np.uint8)).save(folder / "small.png")
    return str(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(crops, "_BLOCK", 32)  # counts few crops more than are needed
    monkeypatch.setenv("INSTAHIDE_NB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many crops each call of the counter has counted."""
    calls: list[int] = []

    def count(grey: object, photo: np.ndarray, box: np.ndarray) -> np.ndarray:
        calls.append(len(photo))
        return count_key_points(grey, photo, box)

    monkeypatch.setattr(crops, "count_key_points", count)
    return calls


@given(
    st.lists(st.tuples(*[st.integers(64, 400)] * 2), min_size=1, max_size=5),
    st.integers(0, 2**64 - 1),
    st.sampled_from([64, 50, 7]),
    st.integers(0, 150),
)
def test_crops_lie_inside_their_photographs_and_depend_on_their_number_alone(
    pairs: list[tuple[int, int]], draw: int, smallest: int, start: int
) -> None:
    photo, box = draw_crops(sized(*pairs), 0, 200, draw=draw, smallest=smallest)
    size = np.array(pairs)[photo]
    x, y, side = box.T
    assert (side >= smallest).all()
    assert (side <= np.minimum(size.min(axis=1), LARGEST)).all()
    assert ((x >= 0) & (y >= 0) & (x + side <= size[:, 0]) & (y + side <= size[:, 1])).all()
    some = draw_crops(sized(*pairs), start, start + 50, draw=draw, smallest=smallest)
    assert np.array_equal(some[0], photo[start : start + 50])
    assert np.array_equal(some[1], box[start : start + 50])


def test_the_stream_is_fixed_and_other_draws_and_names_give_others() -> None:
    photos = sized((200, 150), (90, 300))
    photo, box = draw_crops(photos, 0, 3, draw=5)
    assert np.column_stack([photo, box]).tolist() == [[1, 4, 95, 79], [1, 2, 143, 88], [1, 10, 123, 77]]
    assert not np.array_equal(box, draw_crops(photos, 0, 3, draw=1)[1])
    assert not np.array_equal(box, draw_crops([Photograph("z", Path("z"), 200, 150)] * 2, 0, 3, draw=5)[1])


def test_counts_are_of_the_crop_alone_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = public_regions("challenge")[4:6]
    photo, box = draw_crops(photos, 0, 24)
    counts = count_key_points(grey_reader(photos), photo, box)
    for row in range(0, 24, 6):
        x, y, side = box[row]
        assert counts[row] == len(key_points(photos[photo[row]].read()[y : y + side, x : x + side]))
    monkeypatch.setattr(crops, "_DECODED_BYTES", 0)  # decode again for each task
    for threads in (1, 5):
        monkeypatch.setattr(crops, "thread_count", lambda threads=threads: threads)
        assert np.array_equal(count_key_points(grey_reader(photos), photo, box), counts)


def test_patches_are_the_kept_crops_reduced(photos: str) -> None:
    patches, table = public_patches(photos, 20, size=(24, 30)), public_crops(photos, 20, size=(24, 30))
    assert [photo.name for photo in table.photographs] == ["busy/a.png", "busy/b.png", "empty.png"]
    assert (table.keypoints[table.photo == 2] == 0).all()
    assert set(table.photo[table.kept].tolist()) == {0, 1}
    assert np.array_equal(table.kept, table.keypoints > 40)
    assert table.kept.sum() == 20
    assert table.kept[-1]
    for patch, row in zip(patches, np.flatnonzero(table.kept), strict=True):
        x, y, side = table.box[row]
        crop = table.photographs[table.photo[row]].read()[y : y + side, x : x + side]
        assert np.array_equal(patch, reduce_area(crop, (24, 30)))
    assert public_crops(photos, 2, size=(80, 100)).box[:, 2].min() >= 100


def test_one_file_of_counts_serves_fewer_more_another_cut_and_another_machine(
    photos: str, own_cache: Path, counted: list[int]
) -> None:
    first = public_patches(photos, 20)
    assert sum(counted) >= 20
    counted.clear()
    assert np.array_equal(public_patches(photos, 12), first[:12])
    public_crops(photos, 5, min_keypoints=60)
    assert not counted
    many = public_crops(photos, 50)
    assert sum(counted) > 0
    (file,) = own_cache.glob("crops/*.npy")
    counts = load_array(file, dtype=np.uint16)
    assert np.array_equal(counts[: len(many.kept)], many.keypoints)
    cut = int(np.sort(many.keypoints)[-9])
    assert (public_crops(photos, 8, min_keypoints=cut).keypoints > cut).sum() == 8, "more than, not as many"
    # Counts from another machine decide.
    row = int(np.flatnonzero(many.kept)[0])
    counts[row] = 40
    crops._write_counts(own_cache / "crops", file.stem.partition("-")[0], counts.astype(np.int64))
    assert not public_crops(photos, 20).kept[row]
    assert not np.array_equal(public_patches(photos, 3, draw=1), first[:3])
    assert len(list(own_cache.glob("crops/*.npy"))) == 2


def test_damaged_counts_and_those_of_changed_photographs_are_not_used(
    photos: str, own_cache: Path, counted: list[int], tmp_path: Path
) -> None:
    picture = tmp_path / "own" / "a.png"
    picture.parent.mkdir()
    picture.write_bytes((Path(photos) / "busy" / "a.png").read_bytes())
    first = public_patches(str(picture.parent), 5)
    (file,) = own_cache.glob("crops/*.npy")
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-2] + b"\1\0"):
        file.write_bytes(damaged)
        counted.clear()
        assert np.array_equal(public_patches(str(picture.parent), 5), first)
        assert counted
        assert file.read_bytes() == whole
    Image.fromarray(np.array(Image.open(picture)) ^ 1).save(picture)
    counted.clear()
    public_patches(str(picture.parent), 5)
    assert counted


def test_too_few_crops_that_pass(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 of the first 1,024 pass and none after them: the look at 1,024 allows it, the one at 2,048 does not."""
    done: list[int] = []

    def count(grey: object, photo: np.ndarray, box: np.ndarray) -> np.ndarray:
        done.extend(range(len(done), len(done) + len(photo)))
        return np.where(np.array(done[-len(photo) :]) < 30, 50, 0)

    monkeypatch.setattr(crops, "count_key_points", count)
    assert public_crops(photos, 30).kept.sum() == 30
    for _ in range(2):  # the second time from the cache
        with pytest.raises(InputError, match="only 30 of 2048 random crops have more than 40 SIFT key points"):
            public_patches(photos, 31)
        assert len(done) == 2048


def test_ready_patches_are_taken_in_order_and_other_sources_are_refused(tmp_path: Path, photos: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    path = str(tmp_path / "ready.npz")
    np.savez(path, images=images)
    assert np.array_equal(public_patches(path, 3), images[:3])
    for n, size in ((6, (32, 32)), (3, (16, 16))):
        with pytest.raises(InputError, match=r"holds 5 patches of \(32, 32\) pixels; .* are needed"):
            public_patches(path, n, size=size)
    with pytest.raises(InputError, match="n_public: 0 crops"):
        public_patches(photos, 0)
    Image.fromarray(np.zeros((63, 500, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="no photograph is 64 px or more on each side"):
        public_patches(str(tmp_path), 3)
    data = (Path(photos) / "busy" / "a.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"bad\.png: is not a readable image"):
        public_patches(str(tmp_path), 10)


def carried(holder: str) -> np.ndarray:
    return crops._read_counts(crops._COUNTED, crops._key(public_regions(holder)))


@pytest.mark.parametrize("count", [100, pytest.param(CARRIED, marks=pytest.mark.slow)])
@pytest.mark.parametrize("holder", ["challenge", "attacker"])
def test_the_carried_counts_are_sifts(holder: str, count: int) -> None:
    photographs = public_regions(holder)
    assert carried(holder).shape == (CARRIED,)
    assert (carried(holder) > 40).sum() >= 4000
    counts = count_key_points(grey_reader(photographs), *draw_crops(photographs, 0, count))
    difference = counts - carried(holder)[:count]
    assert np.abs(difference).max() <= 4, "the little by which processors differ"
    assert (difference != 0).mean() <= 0.06


@pytest.mark.parametrize(
    ("source", "digest"),
    [
        ("embedded", "ec4a6d8cfd98bd7260c64d4ad06295fe72289374394856fa14cf9d7a60f08abb"),
        ("embedded:attacker", "fae8a54d59cbc07458b6fb3d363e2a35ad70940e88593585e52ce842c8c7f5e5"),
    ],
)
def test_embedded_patches_have_the_same_bits_everywhere_and_need_no_count(
    source: str, digest: str, own_cache: Path, counted: list[int]
) -> None:
    assert sha256_array(public_patches(source, 40)) == digest
    assert public_crops(source, 4000).kept.sum() == 4000
    assert not counted
    assert not own_cache.exists()
