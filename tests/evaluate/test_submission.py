"""The submission's zip: what it holds, what it never holds, and that its bytes are stable."""

from __future__ import annotations

import json
import os
import shutil
import zipfile

import numpy as np
import pytest

import instahide_nb
from instahide_nb.attacks.result import AttackResult, on_the_grid, save_result
from instahide_nb.core.errors import InputError
from instahide_nb.evaluate.submission import load_attack_info, load_decryption, make_submission

SHAPE = (6, 8, 8, 3)
ATTACK = '''"""Answers grey for every encryption: the least that an attack can do."""


def attack(release, public):
    """Grey images."""
'''


@pytest.fixture
def attack_dir(tmp_path, monkeypatch):
    """The folder of an attack from outside the package, whose module can be imported."""
    (tmp_path / "grey_attack.py").write_text(ATTACK)
    monkeypatch.syspath_prepend(tmp_path)
    images = np.random.default_rng(0).uniform(-1, 1, SHAPE)
    result = AttackResult(
        method="grey_attack:attack",
        recovered=on_the_grid(images[:2]),
        assignment=np.zeros((6, 2), np.int64),
        decryption=on_the_grid(images),
        complexity="O(E)",
        seconds={"think": 60.0, "write": 1.5},
    )
    folder = tmp_path / "grey"
    save_result(folder, result)
    (folder / "attack.ipynb").write_text("{}")
    return folder


def test_it_holds_what_the_challenge_asks_for(attack_dir):
    path = make_submission(attack_dir)
    assert path == attack_dir.parent / "grey-submission.zip"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        text = archive.read("description.md").decode()
        assert archive.read("source/grey_attack.py").decode() == ATTACK
        assert archive.read("decryption.npy") == (attack_dir / "decryption.npy").read_bytes()
        assert archive.testzip() is None
    assert {"description.md", "attack.json", "decryption.npy", "attack.ipynb"} <= set(names)
    assert {"source/instahide_nb/release.py", "source/instahide_nb/attack/result.py"} <= set(names)
    for part in (
        "grey_attack:attack",
        "Answers grey",
        "O(E)",
        "1 min 2 s",
        "| think | 60.0 |",
        "Python",
        "numpy",
    ):
        assert part in text


def test_it_can_be_scored_straight_from_the_zip(attack_dir):
    path = make_submission(attack_dir)
    np.testing.assert_array_equal(load_decryption(path, SHAPE), np.load(attack_dir / "decryption.npy"))
    assert load_attack_info(path) == json.loads((attack_dir / "attack.json").read_text())


def test_equal_input_gives_equal_bytes(attack_dir, tmp_path):
    first = make_submission(attack_dir, tmp_path / "a.zip").read_bytes()
    elsewhere = tmp_path / "copy"
    shutil.copytree(attack_dir, elsewhere)
    for file in elsewhere.iterdir():
        os.utime(file, (1e9, 1e9))
        file.chmod(0o600)
    assert make_submission(elsewhere, tmp_path / "b.zip").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        members = archive.infolist()
    assert [member.filename for member in members] == sorted(member.filename for member in members)
    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
    assert {member.external_attr >> 16 for member in members} == {0o100644}


def test_nothing_secret_or_stray_is_taken(attack_dir):
    before = set(zipfile.ZipFile(make_submission(attack_dir)).namelist())
    for name in ("secret.json", "private.npy", "pair.npy", "gen_data.ipynb", "notes.txt", ".env"):
        (attack_dir / name).write_text("secret")
    (attack_dir / "secret").mkdir()
    (attack_dir / "secret" / "decryption.npy").write_text("secret")
    after = zipfile.ZipFile(make_submission(attack_dir)).namelist()
    assert set(after) == before
    outside_source = {name for name in after if not name.startswith("source/")}
    assert outside_source == {"description.md", "attack.json", "decryption.npy", "attack.ipynb"}
    assert all(name.endswith(".py") for name in set(after) - outside_source)


def test_an_attack_of_the_package_adds_no_file(attack_dir):
    about = json.loads((attack_dir / "attack.json").read_text())
    about["method"] = "instahide_nb.attacks.registry:run_attack"
    (attack_dir / "attack.json").write_text(json.dumps(about))
    names = zipfile.ZipFile(make_submission(attack_dir)).namelist()
    assert "source/instahide_nb/attack/registry.py" in names
    assert all(name.startswith("source/instahide_nb/") for name in names if name.startswith("source/"))
    assert len(names) == len(set(names))


def test_source_can_be_named(attack_dir, tmp_path):
    about = json.loads((attack_dir / "attack.json").read_text()) | {"method": "greyest"}
    (attack_dir / "attack.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="greyest"):
        make_submission(attack_dir)
    assert not (tmp_path / "grey-submission.zip").exists()
    code = tmp_path / "code"
    (code / "deep").mkdir(parents=True)
    (code / "a.py").write_text("a = 1\n")
    (code / "deep" / "b.py").write_text("b = 2\n")
    (code / "data.bin").write_text("no")
    archive = zipfile.ZipFile(make_submission(attack_dir, source=code))
    assert archive.read("source/a.py") == b"a = 1\n"
    assert archive.read("source/deep/b.py") == b"b = 2\n"
    assert "source/data.bin" not in archive.namelist()
    assert "greyest" in archive.read("description.md").decode()
    (tmp_path / "empty").mkdir()
    for bad in (tmp_path / "none.py", tmp_path / "empty"):
        with pytest.raises(InputError, match=str(bad)):
            make_submission(attack_dir, source=bad)


def test_a_generator_attack_says_whether_it_found_it(attack_dir):
    for recovered, said in ((True, "was found"), (False, "was not found")):
        about = json.loads((attack_dir / "attack.json").read_text()) | {"recovered": recovered}
        (attack_dir / "attack.json").write_text(json.dumps(about))
        assert said in zipfile.ZipFile(make_submission(attack_dir)).read("description.md").decode()


def test_what_is_missing_or_unfit_is_named(attack_dir, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        make_submission(tmp_path / "nowhere")
    images = np.load(attack_dir / "decryption.npy")
    np.save(attack_dir / "decryption.npy", images * 2)
    with pytest.raises(InputError, match=r"decryption\.npy: values run"):
        make_submission(attack_dir)
    np.save(attack_dir / "decryption.npy", images[..., 0])
    with pytest.raises(InputError, match=r"decryption\.npy: has shape"):
        make_submission(attack_dir)
    (attack_dir / "decryption.npy").unlink()
    with pytest.raises(InputError, match=r"decryption\.npy: no such file"):
        make_submission(attack_dir)
    (attack_dir / "attack.json").unlink()
    with pytest.raises(InputError, match=r"attack\.json: no such file"):
        make_submission(attack_dir)


def test_the_whole_package_is_there(attack_dir):
    root = os.path.dirname(instahide_nb.__file__)
    files = {name for name in os.listdir(root) if name.endswith(".py")}
    names = zipfile.ZipFile(make_submission(attack_dir)).namelist()
    assert files == {
        name.split("/")[2] for name in names if name.count("/") == 2 and name.startswith("source/i")
    }
