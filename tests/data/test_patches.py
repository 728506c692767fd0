"""Public patches: the SIFT filter, the table of crops that is kept, and what is refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instahide_nb.core.errors import InputError
from instahide_nb.core.files import sha256_array
from instahide_nb.data import crops as crop_table
from instahide_nb.data.crops import KeyPointCounter
from instahide_nb.data.photographs import reduce_area
from instahide_nb.data.sources import public_crops, public_patches, recount, source_photographs


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with two busy photographs, one empty one and one that is too small."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, height, width in (("busy/a.png", 150, 210), ("busy/b.png", 120, 100)):
        blobs = random.integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(blobs).resize((width, height), Image.Resampling.NEAREST).save(folder / name)
    Image.fromarray(np.full((100, 100, 3), 90, np.uint8)).save(folder / "empty.png")
    Image.fromarray(random.integers(0, 256, (63, 300, 3), dtype=np.uint8)).save(folder / "small.png")
    return str(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INSTAHIDE_NB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many crops each call of the counter has counted."""
    calls: list[int] = []
    original = KeyPointCounter.count

    def count(self: KeyPointCounter, photo: np.ndarray, *rest: object) -> np.ndarray:
        calls.append(len(photo))
        return original(self, photo, *rest)

    monkeypatch.setattr(KeyPointCounter, "count", count)
    return calls


def test_patches_are_the_kept_crops_reduced(photos: str) -> None:
    patches = public_patches(photos, 60, size=24)
    table = public_crops(photos, 60, size=24)
    assert patches.shape == (60, 24, 24, 3)
    assert table.kept.sum() == 60
    assert table.kept[-1]
    place = {photo.name: photo.read() for photo in source_photographs(photos)}
    kept = np.flatnonzero(table.kept)
    for patch, row in zip(patches, kept, strict=True):
        x, y, side = table.box[row]
        crop = place[table.names[table.photo[row]]][y : y + side, x : x + side]
        assert crop.shape == (side, side, 3)
        assert np.array_equal(patch, reduce_area(crop, 24))


def test_the_filter_keeps_busy_crops_and_rejects_empty_ones(photos: str) -> None:
    table = public_crops(photos, 60)
    assert table.names == ("busy/a.png", "busy/b.png", "empty.png")
    empty = table.photo == 2
    assert empty.any()
    assert (table.keypoints[empty] == 0).all()
    assert not table.kept[empty].any()
    assert np.array_equal(table.kept, table.keypoints > 40)
    assert table.kept.any()


def test_the_cut_is_more_than_min_keypoints(photos: str) -> None:
    counts = public_crops(photos, 40, min_keypoints=0).keypoints[:30]
    cut = int(np.sort(counts[counts > 0])[5])
    table = public_crops(photos, 20, min_keypoints=cut)
    assert (table.keypoints == cut).any()
    assert (table.keypoints[table.kept] > cut).all()
    assert (table.keypoints[~table.kept] <= cut).all()


def test_every_crop_can_be_kept(photos: str) -> None:
    # No key points are asked for, but an empty crop does not have more than none.
    table = public_crops(photos, 30, min_keypoints=0)
    assert (table.keypoints[table.kept] > 0).all()


def test_the_second_run_counts_nothing(photos: str, counted: list[int]) -> None:
    first = public_patches(photos, 50)
    assert sum(counted) >= 50
    counted.clear()
    assert np.array_equal(public_patches(photos, 50), first)
    assert not counted


def test_one_table_serves_fewer_more_and_another_cut(photos: str, counted: list[int], tmp_path: Path) -> None:
    public_crops(photos, 100)
    counted.clear()
    few = public_crops(photos, 20)
    public_crops(photos, 20, min_keypoints=60)
    assert not counted
    many = public_crops(photos, 250)
    assert sum(counted) > 0
    fresh = public_crops(photos, 250, cache_dir=tmp_path / "other")
    assert many.to_csv() == fresh.to_csv()
    assert np.array_equal(few.box, many.box[: len(few.box)])


def test_the_first_patches_do_not_depend_on_how_many(photos: str) -> None:
    assert np.array_equal(public_patches(photos, 80)[:30], public_patches(photos, 30))


def test_draw_and_size_and_photographs_have_tables_of_their_own(photos: str, own_cache: Path) -> None:
    first = public_patches(photos, 20)
    assert not np.array_equal(first, public_patches(photos, 20, draw=1))
    large = public_crops(photos, 5, size=100)
    assert large.box[:, 2].min() >= 100
    assert large.names == ("busy/a.png", "busy/b.png", "empty.png")
    assert len(list(own_cache.glob("crops/*.csv"))) == 3


def test_a_changed_photograph_is_counted_anew(tmp_path: Path, photos: str, counted: list[int]) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    source = Path(photos) / "busy" / "a.png"
    (folder / "a.png").write_bytes(source.read_bytes())
    public_patches(str(folder), 20)
    counted.clear()
    changed = np.array(Image.open(source))
    changed[0, 0] ^= 1
    Image.fromarray(changed).save(folder / "a.png")
    public_patches(str(folder), 20)
    assert counted


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b",6", b",7", 1),
        lambda data: b"# not json\n" + data.partition(b"\n")[2],
        lambda data: b"# []\n" + data.partition(b"\n")[2],
        lambda data: data[:-3] + b"\xff\xff\n",
    ],
)
def test_a_damaged_table_is_made_anew(photos: str, own_cache: Path, counted: list[int], damage) -> None:
    first = public_patches(photos, 30)
    (file,) = own_cache.glob("crops/*.csv")
    whole = file.read_bytes()
    assert damage(whole) != whole
    file.write_bytes(damage(whole))
    counted.clear()
    assert np.array_equal(public_patches(photos, 30), first)
    assert counted
    assert file.read_bytes() == whole


def test_a_table_of_other_crops_is_not_believed(photos: str, own_cache: Path, counted: list[int]) -> None:
    # Right checksum and key, but boxes that were never drawn: as if a stream had changed without its version.
    import hashlib
    import json

    first = public_patches(photos, 30)
    (file,) = own_cache.glob("crops/*.csv")
    whole = file.read_bytes()
    head, _, body = whole.partition(b"\n")
    lines = body.split(b"\n")
    lines[1], lines[2] = lines[2], lines[1]
    stated = json.loads(head[2:]) | {"sha256": hashlib.sha256(b"\n".join(lines)).hexdigest()}
    file.write_bytes(b"# " + json.dumps(stated).encode() + b"\n" + b"\n".join(lines))
    counted.clear()
    assert np.array_equal(public_patches(photos, 30), first)
    assert counted


def test_the_table_is_the_truth(photos: str, own_cache: Path) -> None:
    # A machine whose SIFT counted differently hands on its table: its counts decide, and recount tells.
    import hashlib
    import json

    table = public_crops(photos, 30)
    (file,) = own_cache.glob("crops/*.csv")
    head, _, body = file.read_bytes().partition(b"\n")
    rows = list(csv.reader(io.StringIO(body.decode())))
    kept = int(np.flatnonzero(table.kept)[0])
    rows[kept + 1][4] = "40"
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    changed = text.getvalue().encode()
    stated = json.loads(head[2:]) | {"sha256": hashlib.sha256(changed).hexdigest()}
    file.write_bytes(b"# " + json.dumps(stated).encode() + b"\n" + changed)
    other = public_crops(photos, 30)
    assert not other.kept[kept]
    assert other.kept.sum() == 30
    assert np.flatnonzero(recount(photos, other) != other.keypoints).tolist() == [kept]


def test_recount_agrees_and_asks_for_the_right_photographs(photos: str, tmp_path: Path) -> None:
    table = public_crops(photos, 30)
    assert np.array_equal(recount(photos, table), table.keypoints)
    with pytest.raises(InputError, match=r"has no photograph busy/a\.png"):
        recount("embedded", table)


def test_the_written_table(photos: str) -> None:
    table = public_crops(photos, 10)
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [row["photo"] for row in rows] == [table.names[i] for i in table.photo]
    assert [int(row["keypoints"]) for row in rows] == table.keypoints.tolist()
    assert [row["kept"] == "1" for row in rows] == table.kept.tolist()
    assert [[int(row[key]) for key in ("x", "y", "side")] for row in rows] == table.box.tolist()


def test_a_cache_that_cannot_be_written_only_warns(photos: str, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.warns(UserWarning, match="not kept for the next run"):
        patches = public_patches(photos, 10, cache_dir=blocked)
    assert np.array_equal(patches, public_patches(photos, 10))


def test_embedded_patches_have_the_same_bits_everywhere() -> None:
    assert (
        sha256_array(public_patches("embedded", 40))
        == "ec4a6d8cfd98bd7260c64d4ad06295fe72289374394856fa14cf9d7a60f08abb"
    )
    attacker = public_patches("embedded:attacker", 40)
    assert sha256_array(attacker) == "fae8a54d59cbc07458b6fb3d363e2a35ad70940e88593585e52ce842c8c7f5e5"
    busy = attacker.reshape(40, -1).std(axis=1)
    assert busy.min() > 5


def test_a_height_and_a_width(photos: str) -> None:
    assert public_patches(photos, 3, size=(20, 48)).shape == (3, 20, 48, 3)


def test_ready_patches_are_taken_in_order(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    path = str(tmp_path / "ready.npz")
    np.savez(path, images=images)
    assert np.array_equal(public_patches(path, 3), images[:3])
    with pytest.raises(InputError, match=r"holds 5 patches; 6 were asked for"):
        public_patches(path, 6)
    with pytest.raises(InputError, match=r"patches are \(32, 32\) pixels; \(16, 16\) are needed"):
        public_patches(path, 3, size=16)
    with pytest.raises(InputError, match="no photographs to show"):
        public_crops(path, 3)


def test_photographs_that_are_too_small(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((63, 500, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="no photograph is 64 px or more on each side"):
        public_patches(str(tmp_path), 3)


def test_too_few_crops_that_pass(photos: str, counted: list[int]) -> None:
    with pytest.raises(InputError, match=r"only 0 of 1024 random crops have more than 5000 SIFT key points"):
        public_patches(photos, 30, min_keypoints=5000)
    assert 1024 <= sum(counted) <= 1024 + 128
    counted.clear()
    with pytest.raises(InputError, match="only 0 of 1024"):
        public_patches(photos, 30, min_keypoints=5000)
    assert not counted


def test_the_limit_does_not_depend_on_how_many_were_counted_at_once() -> None:
    # 30 of the first 1,024 pass, and none after them: the looks at 1,024 .. 1,408 allow it, the one at 1,536 does not.
    counts = np.zeros(4096, np.int64)
    counts[:30] = 50
    needed = crop_table._attempts_needed
    assert needed(counts[:1408], 40, 40, "s") is None
    for length in (1536, 2048, 4096):
        with pytest.raises(InputError, match="only 30 of 1536"):
            needed(counts[:length], 40, 40, "s")
    assert needed(counts, 30, 40, "s") == 30


def test_a_damaged_photograph_is_named(tmp_path: Path, photos: str) -> None:
    data = (Path(photos) / "busy" / "a.png").read_bytes()
    (tmp_path / "bad.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"bad\.png: is not a readable image, or is cut short"):
        public_patches(str(tmp_path), 10)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"n": 0}, "n_public"),
        ({"n": 2.5}, "n_public"),
        ({"n": True}, "n_public"),
        ({"min_keypoints": -1}, "min_keypoints"),
        ({"min_keypoints": "40"}, "min_keypoints"),
        ({"draw": -1}, "draw"),
        ({"draw": 2**64}, "draw"),
        ({"size": 0}, "size"),
        ({"size": 257}, "size"),
    ],
)
def test_impossible_parameters(photos: str, change: dict, name: str) -> None:
    arguments = {"n": 3} | change
    with pytest.raises(InputError, match=name):
        public_patches(photos, arguments.pop("n"), **arguments)
