"""Both attacks on small challenges: everything follows from the generator, or an honest failure."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from synthetic_challenge import Synthetic, estimated_signs, later, make, positive, smooth_images, solver_that_knows

from instahide_nb.attacks.generator import state
from instahide_nb.attacks.generator.attack import prng_seed, prng_state
from instahide_nb.attacks.generator.replay import Layout
from instahide_nb.attacks.result import AttackResult
from instahide_nb.attacks.unmask.attack import UnmaskResult
from instahide_nb.challenge.build import build_challenge
from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.params import GenDataParams
from instahide_nb.evaluate.metrics import score
from instahide_nb.scheme.encryption import pixel_values
from instahide_nb.scheme.mersenne import seeded_window
from instahide_nb.scheme.streams import Mt19937Stream

OTHER_PUBLIC = smooth_images(60, 16, 77)
SEED = 2_345_678
RANGE = {"seed_start": SEED - 100_000, "seed_stop": SEED + 100_000}


WINDOWS = np.random.default_rng(24).integers(0, 2**32, (2, 624), dtype=np.uint32)


def stream_of_entropy() -> Mt19937Stream:
    states = {name: w.astype("<u4").tobytes().hex() for name, w in zip("TC", WINDOWS, strict=True)}
    return Mt19937Stream("entropy", states)


def two_streams() -> Mt19937Stream:
    """Numpy seeded with the one seed, PyTorch with another."""
    stream = Mt19937Stream(SEED)
    stream.torch = Mt19937Stream(SEED + 1).torch
    return stream


def unnamed(made: Synthetic) -> Release:
    """The release without the name of its secure generator."""
    return replace(made.release, info=made.release.info.changed(rng="mt19937"))


def assert_found(result: AttackResult, made: Synthetic, *, exact: bool = True) -> None:
    assert result.recovered_generator is True
    pairs = made.mixtures.index[:, : made.release.info.private_per_row]
    np.testing.assert_array_equal(np.sort(result.assignment, axis=1), np.sort(pairs, axis=1))
    removed = np.where(
        positive(made).reshape(made.release.encryption.shape), made.release.encryption, -made.release.encryption
    )
    np.testing.assert_array_equal(result.extras["signed"], removed)
    if exact:
        np.testing.assert_array_equal(result.recovered, pixel_values(made.private))
        np.testing.assert_array_equal(result.decryption, result.recovered[result.assignment[:, 0]])
    json.dumps(result.details)


def assert_not_found(result: AttackResult, reason: str) -> None:
    assert result.recovered_generator is False
    assert reason in result.reason
    assert "\n" not in result.reason
    assert len(result.decryption) == len(result.recovered) == 0
    json.dumps(result.details)


@pytest.mark.parametrize(("scheme", "k", "p"), [("cross", 5, 3), ("cross", 2, 2), ("inside", 3, 2), ("mixup", 2, 2)])
def test_everything_follows_from_the_labels(scheme, k, p):
    made = make(seed=SEED, scheme=scheme, k=k, private_per_mix=p)
    result = prng_seed(made.release, OTHER_PUBLIC, **RANGE)
    assert_found(result, made)
    assert result.details["seed"] == SEED
    funnel = result.details["funnel"]
    assert funnel["seeds"] == 200_000
    assert funnel["survivors"] >= funnel["fit the first rows"] == funnel["verified"] == 1
    assert list(result.seconds) == ["scan", "replay", "images"]


@pytest.mark.parametrize("augment", ["flip", "crop_flip"])
def test_views_follow_from_the_seed_and_images_are_exact(augment):
    few = {"n_private": 10, "encryptions_per_image": 30, "k": 3, "n_public": 20, "min_keypoints": 0}
    challenge = build_challenge(GenDataParams(seed=SEED, augment=augment, **few))
    result = prng_seed(challenge.release, OTHER_PUBLIC, seed_start=SEED - 1000, seed_stop=SEED + 1000)
    assert result.recovered_generator is True
    assert result.details["encryptions_reproduced"] == 1
    np.testing.assert_array_equal(result.recovered, pixel_values(challenge.secret.private))
    scores = score(result.decryption, *challenge.secret.mixed())
    assert scores.metrics()["max_ssim"] == 1


@pytest.mark.parametrize(("decimals", "dtype"), [(3, np.float32), (4, np.float64)])
def test_rounded_labels(decimals, dtype):
    made = make(seed=SEED)
    label = made.release.label.astype(dtype)
    if decimals is not None:
        label = np.round(label, decimals)
    result = prng_seed(replace(made.release, label=label), OTHER_PUBLIC, **RANGE)
    assert_found(result, made)
    assert result.details["label_decimals"] == (decimals or "exact")


def test_a_release_of_two_arrays():
    """Without release.json the defaults of 2020 hold, and the number of public images is not known."""
    made = make(seed=SEED, n_private=100, epochs=5, k=6, n_public=130)
    release = Release(made.release.encryption, made.release.label, ReleaseInfo(encryptions_per_image=5))
    result = prng_seed(release, OTHER_PUBLIC, **RANGE)
    assert_found(result, made, exact=False)
    assert result.details["n_public"] == 130


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"seed": 7}, "no seed in 2245678 .. 2445677"),
        ({"seed": "entropy"}, "entropy"),
        ({"seed": "entropy", "scheme": "mixup", "k": 2}, "no seed in"),
        ({"rng": "chacha20"}, "not numpy's"),
        ({"stream": two_streams()}, "no masks"),
    ],
)
def test_seeds_that_are_not_found(settings, reason):
    result = prng_seed(unnamed(make(epochs=3, **settings)), OTHER_PUBLIC, **RANGE)
    assert_not_found(result, reason)
    assert result.details.get("seed") == (SEED if "stream" in settings else None)


def test_labels_that_no_seed_makes():
    """Sums only; or uniform coefficients."""
    made = make(seed=SEED, epochs=3)
    sums = replace(made.release, label=made.release.label.sum(axis=1, keepdims=True))
    assert_not_found(prng_seed(sums, OTHER_PUBLIC, **RANGE), "ratio")
    uniform = np.random.default_rng(0).uniform(0.1, 0.5, made.release.label.shape)
    label = np.where(made.release.label > 0, uniform, 0).astype(np.float32)
    assert_not_found(prng_seed(replace(made.release, label=label), OTHER_PUBLIC, **RANGE), "no seed")


@pytest.mark.parametrize("attack", [prng_seed, prng_state])
def test_what_the_release_says_is_not_computed(attack):
    made = make(rng="chacha20", epochs=3)
    result = attack(made.release, OTHER_PUBLIC)
    assert_not_found(result, "chacha20")
    half = replace(unnamed(made), encryption=made.release.encryption[:50], label=made.release.label[:50])
    assert_not_found(attack(half, OTHER_PUBLIC), "epochs")
    assert not result.seconds
    mixup = make(scheme="mixup", k=2, epochs=3).release
    assert_not_found(prng_state(mixup, OTHER_PUBLIC), "no mask")


@pytest.fixture
def without_unmask(monkeypatch):
    def refuse(release, public):
        raise AssertionError("unmask was called")

    monkeypatch.setattr("instahide_nb.attacks.generator.attack.solve", refuse)


@pytest.mark.parametrize(
    ("scheme", "k", "extra"),
    [
        ("cross", 4, ()),
        ("inside", 3, ()),  # without labels
        pytest.param("cross", 4, (2, 0, 17, 400), marks=pytest.mark.slow),
    ],
)
def test_large_neighbours_are_enough(without_unmask, monkeypatch, scheme, k, extra):
    """Neither labels nor public images nor unmask are used before the state is known."""
    if scheme == "inside":
        monkeypatch.setattr(state, "_solve", solver_that_knows(seeded_window(987_654_321)))
    more = {"n_private": 50, "epochs": 4, "extra_words": extra} if extra else {}
    labels = "none" if scheme == "inside" else "coefficients"
    made = make(seed=987_654_321, scheme=scheme, k=k, labels=labels, **more)
    result = prng_state(made.release, OTHER_PUBLIC)
    assert_found(result, made)
    assert result.details["bits_from"] == "pairs of neighbours"
    assert result.details["bits_agreeing"] > 0.8 * result.details["bits_checked"] > 1000  # pairs at edges, too
    assert result.details["seed"] == 987_654_321
    signs = result.extras["signed"] > 0
    curve = result.details["sign_errors"]
    assert curve[-1] == [signs[:, :, 1:].size, int((signs[:, :, 1:] != signs[:, :, :-1]).sum())]
    assert all(a[1] <= b[1] for a, b in itertools.pairwise(curve))


@pytest.fixture
def unmask_sees(monkeypatch):
    """Put estimates made from the true masks in the place of `unmask`, and let neighbours be of no use."""

    def install(made: Synthetic, wrong: float = 0.1, windows: Sequence[np.ndarray] = WINDOWS[:1]) -> UnmaskResult:
        signed, predicted, variance = estimated_signs(made, wrong=wrong)
        n = len(signed)
        solved = UnmaskResult(
            recovered=np.zeros(made.private.shape, np.float32),
            assignment=made.mixtures.index[:, :2].astype(np.int64),
            view=np.tile(np.int8([4, 4, 0]), (n, 2, 1)),
            coefficient=np.full((n, 2), 0.3, np.float32),
            confidence=np.ones((n, 2), np.float32),
            signed=signed,
            predicted=predicted,
            variance=variance,
        )
        monkeypatch.setattr("instahide_nb.attacks.generator.attack.solve", lambda release, public: solved)
        monkeypatch.setattr(state, "state_from_neighbours", lambda release, confidence: None)
        if len(windows):
            monkeypatch.setattr(state, "_solve", solver_that_knows(*windows))
        return solved

    return install


def test_a_seed_is_rewound_and_makes_everything_exact(unmask_sees):
    """Labels of two decimals, too coarse for a scan, confirm the seed."""
    made = make(seed=987_654_321)
    solved = unmask_sees(made, wrong=0.15, windows=[seeded_window(987_654_321)])
    release = replace(made.release, label=np.round(made.release.label, 2))
    result = prng_state(release, OTHER_PUBLIC)
    assert_found(result, made)
    assert result.details["bits_agreeing"] > 0.95 * result.details["bits_checked"] > 1000
    assert (result.details["seed"], result.details["coefficients_known"]) == (987_654_321, True)
    wrong = ((solved.signed > 0) == (made.release.encryption > 0)).reshape(400, -1) != positive(made)
    curve = result.details["sign_errors"]
    assert curve[-1] == [wrong.size, int(wrong.sum())]
    assert curve[0][1] / curve[0][0] < 0.01 < curve[-1][1] / curve[-1][0]


@pytest.mark.parametrize("own", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_entropy_is_exact_with_the_own_public_images_and_close_with_others(unmask_sees, own):
    made = make(stream=stream_of_entropy(), epochs=30)
    unmask_sees(made)
    result = prng_state(made.release, made.public if own else OTHER_PUBLIC)
    assert_found(result, made, exact=own)
    assert result.details["seed"] is None
    assert np.corrcoef(result.recovered.ravel(), pixel_values(made.private).ravel())[0, 1] > 0.95


def test_without_seed_and_labels_pairs_and_coefficients_are_those_of_unmask(unmask_sees):
    made = make(stream=stream_of_entropy(), epochs=30, labels="none")
    solved = unmask_sees(made)
    result = prng_state(made.release, OTHER_PUBLIC)
    assert_found(result, made, exact=False)
    assert result.details["pairs_from"] == "unmask"
    np.testing.assert_array_equal(result.assignment, solved.assignment)


@pytest.mark.parametrize("seeded", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_another_loader_and_a_single_epoch(unmask_sees, seeded):
    """No two epochs are at the expected distance, so the state comes from one of them (by elimination if slow)."""
    stream, extra = Mt19937Stream(7) if seeded else stream_of_entropy(), (2, 0, 17, 400)
    made = make(stream=stream, n_private=50, epochs=4, n_public=60, extra_words=extra)
    starts = np.cumsum(extra) + Layout.of(made.release).starts()
    unmask_sees(made, wrong=0.02, windows=[later(seeded_window(7), start) for start in starts] if seeded else [])
    result = prng_state(made.release, OTHER_PUBLIC)
    assert_found(result, made, exact=False)
    assert result.details["state_from"].endswith("alone")
    if seeded:
        assert (result.details["seed"], result.details["extra_words"]) == (7, 419)


def test_signs_that_are_often_wrong_give_no_state(unmask_sees):
    made = make(seed=1)
    unmask_sees(made, wrong=5.0, windows=[seeded_window(1)])
    assert_not_found(prng_state(made.release, OTHER_PUBLIC), "no state")
