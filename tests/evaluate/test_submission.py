"""Submissions: which of a stranger's files are read or refused, and what the zip made here holds."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

import instahide_nb
from instahide_nb.attacks.result import AttackResult, on_the_grid, save_result
from instahide_nb.core.errors import InputError
from instahide_nb.evaluate.submission import TOLERANCE, load_attack_info, load_decryption, make_submission

SHAPE = (4, 8, 8, 3)
ATTACK = '''"""Answers grey for every encryption: the least that an attack can do."""


def attack(release, public):
    """Grey images."""
'''


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def make_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def refused(path, *said):
    """The file is refused in one line that names it."""
    with pytest.raises(InputError) as caught:
        load_decryption(path, SHAPE)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *said):
        assert part in message


def test_float32_and_float64_in_either_order_are_read_and_clipped_where_rounding_needs_it(tmp_path, images):
    for array in (images, images.astype(np.float64), images.astype(">f4"), np.asfortranarray(images)):
        np.save(tmp_path / "d.npy", array)
        loaded = load_decryption(tmp_path / "d.npy", SHAPE)
        assert loaded.dtype == np.float32
        assert loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, images)
    images[0, 0, 0] = 1 + TOLERANCE / 2
    np.save(tmp_path / "d.npy", images)
    assert load_decryption(tmp_path / "d.npy", SHAPE).max() == 1
    np.save(tmp_path / "d.npy", images + np.float32(2 * TOLERANCE))
    refused(tmp_path / "d.npy", "[-1, 1]")


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (npy(np.zeros(SHAPE, np.uint8)), "uint8"),
        (npy(np.zeros((3, *SHAPE[1:]), np.float32)), "(3, 8, 8, 3)"),
        (npy(np.zeros((4, 3, 8, 8), np.float32)), "channels last"),
        (npy(np.full(SHAPE, 255.0, np.float32)), "255"),
        (npy(np.where(np.arange(4)[:, None, None, None] == 2, np.nan, np.zeros(SHAPE))), "image 2 holds NaN"),
        (npy(np.array([_Bomb()], object), allow_pickle=True), "pickled"),
        (npy(np.zeros(SHAPE, np.float32))[:-1], "bytes of data instead of"),
        (b"hello", "not a .npy file"),
    ],
)
def test_the_wrong_array_is_refused_alone_and_in_a_zip(tmp_path, data, said):
    (tmp_path / "d.npy").write_bytes(data)
    refused(tmp_path / "d.npy", said)
    refused(make_zip(tmp_path / "d.zip", {"decryption.npy": data}), said)


def test_what_is_not_there(tmp_path):
    refused(tmp_path / "none.npy", "no such file")
    refused(tmp_path / "none.zip", "no such file")
    refused(tmp_path, "directory")
    (tmp_path / "attack.json").write_text('{"recovered": false, "reason": "no seed fits"}')
    refused(tmp_path / "decryption.npy", "generator was not found (no seed fits)")


def test_a_zip_is_read_wherever_the_member_stands(tmp_path, images):
    for name, compression in (
        ("decryption.npy", zipfile.ZIP_STORED),
        ("mine/decryption.npy", zipfile.ZIP_DEFLATED),
        ("mine\\..\\decryption.npy", zipfile.ZIP_DEFLATED),  # as some programs for Windows write it
    ):
        path = make_zip(tmp_path / "d.zip", {"readme.txt": "x", name: npy(images)}, compression)
        np.testing.assert_array_equal(load_decryption(path, SHAPE), images)
        np.testing.assert_array_equal(load_decryption(path.rename(tmp_path / "no_suffix"), SHAPE), images)


def test_a_bomb_is_refused_by_the_size_it_declares_and_by_the_size_it_has(tmp_path):
    path = make_zip(tmp_path / "d.zip", {"decryption.npy": bytes(50_000_000)})
    assert path.stat().st_size < 100_000
    refused(path, "larger than")
    path = make_zip(tmp_path / "d.zip", {"decryption.npy": bytes(1_000_000)})
    data = path.read_bytes()
    assert data.count(struct.pack("<I", 1_000_000)) == 2  # local header and central directory
    path.write_bytes(data.replace(struct.pack("<I", 1_000_000), struct.pack("<I", 500)))
    refused(path)


def test_damaged_and_encrypted_zips(tmp_path, images):
    data = npy(images)
    good = make_zip(tmp_path / "good.zip", {"decryption.npy": data}, zipfile.ZIP_STORED).read_bytes()
    flipped, encrypted = bytearray(good), bytearray(good)
    flipped[400] ^= 1
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    encrypted[6] |= 1
    for name, content, said in (
        ("crc.zip", flipped, "damaged"),
        ("cut.zip", good[:-30], "damaged"),
        ("secret.zip", encrypted, "password"),
        ("text.zip", b"hello", "not a zip"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, said)
    link = zipfile.ZipInfo("decryption.npy")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "link.zip", "not a .npy file")
    refused(make_zip(tmp_path / "none.zip", {"decryption2.npy": data}), "contains no decryption.npy")
    two = dict.fromkeys(("decryption.npy", "a/decryption.npy"), b"")
    refused(make_zip(tmp_path / "two.zip", two), "2 files")


def test_attack_info_beside_the_file_in_the_zip_or_nowhere(tmp_path, images):
    np.save(tmp_path / "decryption.npy", images)
    assert load_attack_info(tmp_path / "decryption.npy") == {}
    (tmp_path / "attack.json").write_text('{"method": "mine"}')
    assert load_attack_info(tmp_path / "decryption.npy") == {"method": "mine"}
    assert load_attack_info(make_zip(tmp_path / "a.zip", {"decryption.npy": b""})) == {}
    path = make_zip(tmp_path / "b.zip", {"decryption.npy": b"", "attack.json": '{"method": "x"}'})
    assert load_attack_info(path) == {"method": "x"}
    for bad in ("[1]", "{", "\xff" * 9, "[" * 100_000):
        with pytest.raises(InputError, match=r"c\.zip \(attack\.json in it\): is not a JSON object"):
            load_attack_info(make_zip(tmp_path / "c.zip", {"attack.json": bad}))


@pytest.fixture
def attack_dir(tmp_path, monkeypatch, images):
    """The folder of an attack from outside the package, whose module can be imported."""
    (tmp_path / "grey_attack.py").write_text(ATTACK)
    monkeypatch.syspath_prepend(tmp_path)
    result = AttackResult(
        method="grey_attack:attack",
        recovered=on_the_grid(images[:2]),
        assignment=np.zeros((4, 2), np.int64),
        decryption=on_the_grid(images),
        complexity="O(E)",
        seconds={"think": 60.0, "write": 1.5},
    )
    folder = tmp_path / "grey"
    save_result(folder, result)
    (folder / "attack.ipynb").write_text("{}")
    return folder


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == len(set(archive.namelist()))
        return {name: archive.read(name) for name in archive.namelist()}


def about(folder: Path, **change: object) -> None:
    content = json.loads((folder / "attack.json").read_text()) | change
    (folder / "attack.json").write_text(json.dumps(content))


def test_the_zip_holds_what_the_challenge_asks_for_and_can_be_scored(attack_dir):
    path = make_submission(attack_dir)
    assert path == attack_dir.parent / "grey-submission.zip"
    held = members(path)
    assert held["source/grey_attack.py"].decode() == ATTACK
    assert held["decryption.npy"] == (attack_dir / "decryption.npy").read_bytes()
    root = Path(instahide_nb.__file__).parent
    files = {f"source/instahide_nb/{file.relative_to(root).as_posix()}" for file in root.rglob("*.py")}
    others = {"description.md", "attack.json", "decryption.npy", "attack.ipynb", "source/grey_attack.py"}
    assert held.keys() == files | others
    text = held["description.md"].decode()
    for part in ("grey_attack:attack", "Answers grey", "O(E)", "1 min 2 s", "60.0 |", "Python", "numpy"):
        assert part in text
    np.testing.assert_array_equal(load_decryption(path, SHAPE), np.load(attack_dir / "decryption.npy"))
    assert load_attack_info(path) == json.loads((attack_dir / "attack.json").read_text())
    for recovered, said in ((True, "was found"), (False, "was not found")):
        about(attack_dir, recovered=recovered)
        assert said in members(make_submission(attack_dir))["description.md"].decode()


def test_equal_input_gives_equal_bytes(attack_dir, tmp_path):
    first = make_submission(attack_dir, tmp_path / "a.zip").read_bytes()
    elsewhere = tmp_path / "copy"
    shutil.copytree(attack_dir, elsewhere)
    for file in elsewhere.iterdir():
        os.utime(file, (1e9, 1e9))
        file.chmod(0o600)
    assert make_submission(elsewhere, tmp_path / "b.zip").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        infos = archive.infolist()
    assert [info.filename for info in infos] == sorted(info.filename for info in infos)
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.external_attr >> 16 for info in infos} == {0o100644}


def test_nothing_secret_or_stray_is_taken(attack_dir):
    before = members(make_submission(attack_dir)).keys()
    for name in ("secret.json", "private.npy", "pair.npy", "gen_data.ipynb", "notes.txt", ".env"):
        (attack_dir / name).write_text("secret")
    (attack_dir / "secret").mkdir()
    (attack_dir / "secret" / "decryption.npy").write_text("secret")
    assert members(make_submission(attack_dir)).keys() == before


def test_the_source_is_found_or_can_be_named(attack_dir, tmp_path):
    about(attack_dir, method="instahide_nb.attacks.registry:run_attack")
    held = members(make_submission(attack_dir)).keys()
    assert all(name.startswith("source/instahide_nb/") for name in held if name.startswith("source/"))
    about(attack_dir, method="greyest")
    with pytest.raises(InputError, match="greyest"):
        make_submission(attack_dir, tmp_path / "none.zip")
    assert not (tmp_path / "none.zip").exists()
    code = tmp_path / "code"
    (code / "deep").mkdir(parents=True)
    (code / "deep" / "b.py").write_text("b = 2\n")
    (code / "data.bin").write_text("no")
    held = members(make_submission(attack_dir, source=code))
    assert held["source/deep/b.py"] == b"b = 2\n"
    assert "source/data.bin" not in held
    with pytest.raises(InputError, match=r"none\.py"):
        make_submission(attack_dir, source=tmp_path / "none.py")


def test_what_is_missing_or_unfit_is_named(attack_dir, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        make_submission(tmp_path / "nowhere")
    np.save(attack_dir / "decryption.npy", 2 * np.load(attack_dir / "decryption.npy"))
    with pytest.raises(InputError, match=r"decryption\.npy: values run"):
        make_submission(attack_dir)
    for name in ("decryption.npy", "attack.json"):
        (attack_dir / name).unlink()
        with pytest.raises(InputError, match=f"{name}: no such file"):
            make_submission(attack_dir)
