"""Strangers' files: what is read, and what is refused in one line that names the file."""

from __future__ import annotations

import io
import stat
import struct
import zipfile

import numpy as np
import pytest

from instahide_nb.core.errors import InputError
from instahide_nb.evaluate.submission import TOLERANCE, load_attack_info, load_decryption

SHAPE = (4, 8, 8, 3)


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)


def _npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def _zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _refused(path, *said, shape=SHAPE):
    with pytest.raises(InputError) as caught:
        load_decryption(path, shape)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *said):
        assert part in message
    return message


def test_float32_and_float64_in_either_order(tmp_path, images):
    for array in (images, images.astype(np.float64), images.astype(">f4"), np.asfortranarray(images)):
        np.save(tmp_path / "d.npy", array)
        loaded = load_decryption(tmp_path / "d.npy", SHAPE)
        assert loaded.dtype == np.float32
        assert loaded.flags.c_contiguous
        np.testing.assert_array_equal(loaded, images)


def test_rounding_beyond_one_is_clipped_and_more_is_refused(tmp_path, images):
    images[0, 0, 0] = 1 + TOLERANCE / 2
    np.save(tmp_path / "d.npy", images)
    assert load_decryption(tmp_path / "d.npy", SHAPE).max() == 1
    images[0, 0, 0] = 1 + 2 * TOLERANCE
    np.save(tmp_path / "d.npy", images)
    _refused(tmp_path / "d.npy", "[-1, 1]")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(SHAPE, np.uint8), "uint8"),
        (np.zeros(SHAPE, np.float16), "float16"),
        (np.zeros(SHAPE, np.complex64), "complex64"),
        (np.zeros((3, *SHAPE[1:]), np.float32), "(3, 8, 8, 3)"),
        (np.zeros((4, 3, 8, 8), np.float32), "channels last"),
        (np.zeros((), np.float32), "(4, 8, 8, 3) is expected"),
        (np.full(SHAPE, 255.0, np.float32), "255"),
        (np.full(SHAPE, -1.5, np.float32), "-1.5"),
        (np.full(SHAPE, np.inf, np.float64), "infinity"),
    ],
)
def test_the_wrong_array_is_refused(tmp_path, array, said):
    np.save(tmp_path / "d.npy", array)
    _refused(tmp_path / "d.npy", said)
    _zip(tmp_path / "d.zip", {"decryption.npy": _npy(array)})
    _refused(tmp_path / "d.zip", said)


def test_the_image_with_nan_is_named(tmp_path, images):
    images[2, 1, 1, 1] = np.nan
    np.save(tmp_path / "d.npy", images)
    _refused(tmp_path / "d.npy", "image 2", "NaN")


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_a_pickle_is_never_opened(tmp_path):
    data = _npy(np.array([_Bomb()], object), allow_pickle=True)
    (tmp_path / "d.npy").write_bytes(data)
    _refused(tmp_path / "d.npy", "pickled")
    _refused(_zip(tmp_path / "d.zip", {"decryption.npy": data}), "pickled")


def test_missing_empty_truncated_and_foreign_files(tmp_path, images):
    whole = _npy(images)
    _refused(tmp_path / "none.npy", "no such file")
    _refused(tmp_path / "none.zip", "no such file")
    _refused(tmp_path, "folder")
    for name, data, said in (
        ("empty.npy", b"", "empty"),
        ("cut.npy", whole[:-1], "truncated"),
        ("long.npy", whole + b"\0", "too many"),
        ("header.npy", whole[:50], "not a .npy file"),
        ("text.npy", b"hello", "not a .npy file"),
        ("text.zip", b"hello", "not a zip"),
        ("empty.zip", b"", "not a zip"),
    ):
        (tmp_path / name).write_bytes(data)
        _refused(tmp_path / name, said)


def test_a_header_that_promises_too_much_allocates_nothing(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 8, 8, 3), }"
    header += b" " * (117 - len(header)) + b"\n"
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    _refused(tmp_path / "d.npy", "promises")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", ["decryption.npy", "mine/decryption.npy"])
def test_a_zip_is_read_wherever_the_member_stands(tmp_path, images, name, compression):
    path = _zip(tmp_path / "d.zip", {"readme.txt": "x", name: _npy(images)}, compression)
    np.testing.assert_array_equal(load_decryption(path, SHAPE), images)
    np.testing.assert_array_equal(load_decryption(path.rename(tmp_path / "no_suffix"), SHAPE), images)


def test_a_zip_with_none_or_two_decryptions(tmp_path, images):
    _refused(_zip(tmp_path / "none.zip", {"decryption2.npy": _npy(images)}), "0 files")
    _refused(
        _zip(tmp_path / "two.zip", dict.fromkeys(("decryption.npy", "a/decryption.npy"), b"")), "2 files"
    )


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "C:evil", "a\\..\\evil"])
def test_a_path_that_leads_outside_is_refused(tmp_path, images, name):
    _refused(_zip(tmp_path / "d.zip", {"decryption.npy": _npy(images), name: "x"}), "outside")
    assert [path.name for path in tmp_path.iterdir()] == ["d.zip"]


def test_a_link_is_refused(tmp_path):
    info = zipfile.ZipInfo("decryption.npy")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    _refused(tmp_path / "d.zip", "link")


def test_a_bomb_is_refused_by_its_promise(tmp_path):
    path = _zip(tmp_path / "d.zip", {"decryption.npy": bytes(50_000_000)})
    assert path.stat().st_size < 100_000
    _refused(path, "larger than")


def test_a_bomb_that_lies_about_its_size_is_refused(tmp_path):
    path = _zip(tmp_path / "d.zip", {"decryption.npy": bytes(1_000_000)})
    data = path.read_bytes()
    assert data.count(struct.pack("<I", 1_000_000)) == 2  # local header and central directory
    path.write_bytes(data.replace(struct.pack("<I", 1_000_000), struct.pack("<I", 500)))
    _refused(path)


def test_damaged_encrypted_and_unusual_zips(tmp_path, images):
    good = _zip(tmp_path / "good.zip", {"decryption.npy": _npy(images)}, zipfile.ZIP_STORED).read_bytes()
    flipped = bytearray(good)
    flipped[400] ^= 1
    (tmp_path / "crc.zip").write_bytes(flipped)
    _refused(tmp_path / "crc.zip", "CRC")
    (tmp_path / "cut.zip").write_bytes(good[:-30])
    _refused(tmp_path / "cut.zip", "unpacked")
    encrypted = bytearray(good)
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    encrypted[6] |= 1
    (tmp_path / "secret.zip").write_bytes(encrypted)
    _refused(tmp_path / "secret.zip", "password")
    _refused(_zip(tmp_path / "xz.zip", {"decryption.npy": _npy(images)}, zipfile.ZIP_LZMA), "unusual")
    _refused(_zip(tmp_path / "many.zip", {str(i): b"" for i in range(10_001)}), "10001 files")


def test_attack_info_beside_the_file_in_the_zip_or_nowhere(tmp_path, images):
    np.save(tmp_path / "decryption.npy", images)
    assert load_attack_info(tmp_path / "decryption.npy") == {}
    (tmp_path / "attack.json").write_text('{"method": "mine"}')
    assert load_attack_info(tmp_path / "decryption.npy") == {"method": "mine"}
    data = _npy(images)
    assert load_attack_info(_zip(tmp_path / "a.zip", {"decryption.npy": data})) == {}
    path = _zip(tmp_path / "b.zip", {"decryption.npy": data, "attack.json": '{"method": "x"}'})
    assert load_attack_info(path) == {"method": "x"}
    for bad in ("[1]", "{", "\xff" * 9, "[" * 100_000):
        with pytest.raises(InputError, match=r"c\.zip: attack\.json"):
            load_attack_info(_zip(tmp_path / "c.zip", {"attack.json": bad}))
