"""The whole unmask attack on a small challenge of made images: what it recovers, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from dead_leaves import dead_leaves
from skimage.metrics import structural_similarity

from instahide_nb.attacks.mixtures import Mixtures
from instahide_nb.attacks.registry import counted
from instahide_nb.attacks.unmask.attack import Estimates, Settings, UnmaskResult, decrypt, solve
from instahide_nb.challenge.build import Challenge, build_challenge
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.params import GenDataParams
from instahide_nb.data.sources import public_patches
from instahide_nb.evaluate.metrics import identified, match_images, score

N_PRIVATE = 16


@dataclass(frozen=True)
class Case:
    """A challenge, the attacker's images, and what the attack made of them."""

    challenge: Challenge
    public: npt.NDArray[np.uint8]
    result: UnmaskResult


def make_case(folder: Path, **parameters: object) -> tuple[Challenge, npt.NDArray[np.uint8]]:
    images = dead_leaves(N_PRIVATE, (16, 16), 1)
    names = np.array(["a", "b", "c", "d"])
    label = np.arange(N_PRIVATE) % 4
    np.savez(folder / "private.npz", images=images, labels=label, class_names=names)
    np.savez(folder / "public.npz", images=dead_leaves(300, (16, 16), 2))
    values = {
        "out_dir": str(folder),
        "seed": 7,
        "n_private": N_PRIVATE,
        "encryptions_per_image": 50,
        "k": 4,
        "n_public": 300,
        "private_source": str(folder / "private.npz"),
        "public_source": str(folder / "public.npz"),
    }
    return build_challenge(GenDataParams(**values | parameters)), dead_leaves(300, (16, 16), 3)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    challenge, public = make_case(tmp_path_factory.mktemp("unmask"))
    return Case(challenge, public, solve(challenge.release, public))


def similarity(images: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """SSIM of each recovered image with the private image that it resembles most."""
    reference = truth / 255.0
    table = [
        [structural_similarity((image + 1) / 2, other, data_range=1, channel_axis=-1) for other in reference]
        for image in np.clip(images, -1, 1).astype(np.float64)
    ]
    return np.max(table, axis=1)


def right(challenge: Challenge, result: UnmaskResult) -> float:
    """Share of the private images of all encryptions that the attack names."""
    name = np.argsort(match_images(result.recovered, challenge.secret.private, challenge.secret.augment)[0])
    return float(identified(name[result.assignment], challenge.secret.pair).sum() / challenge.secret.pair.size)


def test_every_private_image_is_recovered_once(case: Case) -> None:
    ssim = similarity(case.result.recovered, case.challenge.secret.private)
    assert ssim.mean() > 0.9
    assert ssim.min() > 0.6
    truth = case.challenge.secret.private / 127.5 - 1.0
    distance = ((case.result.recovered[:, None] - truth[None]) ** 2).mean(axis=(2, 3, 4))
    assert sorted(distance.argmin(axis=1)) == list(range(N_PRIVATE))


@pytest.mark.parametrize(
    ("augment", "least"), [("flip", 0.8), pytest.param("crop", 0.6, marks=pytest.mark.slow), ("crop_flip", 0.5)]
)
def test_augmented_images_are_recovered_with_the_same_bits(
    augment: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge, public = make_case(tmp_path, augment=augment)
    found = []
    for threads in ("1", "2") if augment == "crop_flip" else ("2",):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        found.append(solve(challenge.release, public, settings=Settings(shared_rounds=2)))
    assert score(decrypt(found[0]), *challenge.secret.mixed()).metrics()["max_ssim"] > least
    for one in found[1:]:
        np.testing.assert_array_equal(one.recovered, found[0].recovered)
        np.testing.assert_array_equal(one.view, found[0].view)


@pytest.mark.parametrize(("labels", "times"), [("none", 5), ("coefficients", 1)])
def test_few_cropped_images_are_attacked(labels: str, times: int, tmp_path: Path) -> None:
    challenge, public = make_case(tmp_path, augment="crop", labels=labels, encryptions_per_image=times)
    found = solve(challenge.release, public, settings=Settings(rounds=1, shared_rounds=1))
    assert np.isfinite(found.recovered).all()
    assert ((found.assignment >= 0) & (found.assignment < N_PRIVATE)).all()


def test_a_superfluous_image_that_no_row_holds_is_not_restarted() -> None:
    held = np.array([[0, 1], [1, 0]])
    now = SimpleNamespace(mixtures=Mixtures(held, np.full(held.shape, 0.3), 3))
    codes = SimpleNamespace(margin=lambda: np.full(held.shape, 9, np.float32))
    assert Estimates.restart_images(now, codes, np.array([5, 5, 5])) == 0


def test_signs_are_mostly_right(case: Case) -> None:
    secret = case.challenge.secret
    n = len(case.result.signed)
    positive = np.unpackbits(secret.mask, axis=1)[:, : 16 * 16 * 3].reshape(n, 16, 16, 3) == 1
    unmasked = np.where(positive, case.challenge.release.encryption, -case.challenge.release.encryption)
    right = np.sign(case.result.signed) == np.sign(unmasked)
    assert (right * np.abs(unmasked)).sum() / np.abs(unmasked).sum() > 0.9
    residual = unmasked - case.result.predicted
    inside = (residual**2).mean(axis=(1, 2, 3)) / case.result.variance
    assert 0.2 < np.median(inside) < 5


@pytest.mark.parametrize("labels", [True, False])
def test_the_same_bits_with_any_number_of_threads(case: Case, monkeypatch: pytest.MonkeyPatch, labels: bool) -> None:
    short = Settings(rounds=1, shared_rounds=1)
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        release = case.challenge.release if labels else replace(case.challenge.release, label=None)
        results.append(solve(release, case.public, settings=short))
    for name in ("recovered", "signed", "assignment", "variance", "confidence"):
        assert np.array_equal(getattr(results[0], name), getattr(results[1], name)), name


def test_rows_in_any_order_are_recovered_too(case: Case) -> None:
    order = np.random.default_rng(5).permutation(len(case.challenge.release.label))
    release = case.challenge.release
    shuffled = replace(release, encryption=release.encryption[order], label=release.label[order])
    result = solve(shuffled, case.public)
    assert result.details["epochs"] is False
    assert result.stages[-1].startswith("shared public images")
    assert similarity(result.recovered, case.challenge.secret.private).mean() > 0.8


@pytest.mark.parametrize("labels", ["classes", "none"])
def test_coefficients_are_not_needed(case: Case, labels: str) -> None:
    label = np.sign(case.challenge.release.label) if labels == "classes" else None
    result = solve(replace(case.challenge.release, label=label), case.public)
    assert similarity(result.recovered, case.challenge.secret.private).mean() > 0.85


@pytest.mark.parametrize(("scheme", "k"), [("inside", 3), ("mixup", 2)])
@pytest.mark.parametrize("labels", [True, False])
def test_other_schemes_are_solved_by_the_same_model(tmp_path: Path, scheme: str, k: int, labels: bool) -> None:
    challenge, public = make_case(tmp_path, scheme=scheme, k=k)
    release = challenge.release if labels else replace(challenge.release, label=None)
    result = solve(release, public)
    assert result.assignment.shape[1] == k
    assert similarity(result.recovered, challenge.secret.private).mean() > 0.9


def test_fewer_encryptions_than_images_and_unsuitable_public_images_are_refused(case: Case) -> None:
    release = case.challenge.release
    few = Release(release.encryption[:10], release.label[:10], release.info)
    with pytest.raises(InputError, match="at least as many encryptions as images"):
        solve(few, case.public)
    for public in (np.zeros((10, 16, 16, 3), np.uint8), np.zeros((80, 16, 16, 3), np.float32)):
        with pytest.raises(InputError, match="public"):
            solve(release, public)


@pytest.mark.slow
@pytest.mark.parametrize(("each", "least", "within"), [(50, 0.96, 0.03), (10, 0.8, 0.05), (5, 0.2, 0.1)])
def test_published_scale_on_embedded_photographs(tmp_path: Path, each: int, least: float, within: float) -> None:
    parameters = {"out_dir": str(tmp_path), "n_private": 100, "k": 6, "n_public": 4000, "seed": 2020}
    challenge = build_challenge(GenDataParams(**parameters | {"encryptions_per_image": each}))
    result = solve(challenge.release, public_patches("embedded:attacker", 2000))
    ssim = similarity(result.recovered, challenge.secret.private)
    assert ssim.mean() > least
    assert ssim.min() > 0.7 or each < 50
    assert abs(result.details["estimated_slot_accuracy"] - right(challenge, result)) < within


def test_the_attack_knows_how_much_it_got_right(case: Case) -> None:
    own = case.result.details["estimated_slot_accuracy"]
    assert abs(own - right(case.challenge, case.result)) < 0.05


def test_private_images_are_counted_where_nobody_said_how_many_there_are(case: Case) -> None:
    said = case.challenge.release
    unsaid = replace(said, info=said.info.changed(n_private=100), assumed=("n_private",))
    found = counted(unsaid, case.public)
    assert found.info.n_private == N_PRIVATE
    assert found.assumptions() == f"estimated from the encryptions: n_private {N_PRIVATE}"
    assert counted(said, case.public) is said
    noise = np.random.default_rng(0).normal(size=said.encryption.shape).clip(-1, 1).astype(np.float32)
    assert counted(replace(unsaid, encryption=noise), case.public).info.n_private == 100
