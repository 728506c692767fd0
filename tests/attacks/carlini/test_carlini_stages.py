"""The stages of the published attack one by one: known answers, constraints, and what they may not depend on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instahide_nb.attacks.carlini.cleaning import clean, learn_cleaning, windows
from instahide_nb.attacks.carlini.colour import colour, learn_colour_curve
from instahide_nb.attacks.carlini.gradient import free_sign_descent, free_sign_loss, stretch
from instahide_nb.attacks.carlini.groups import (
    Groups,
    dense_groups,
    grow_groups,
    second_similarity,
    select_groups,
)
from instahide_nb.attacks.carlini.matching import greedy_matching, match, optimal_matching
from instahide_nb.attacks.carlini.perceptron import Perceptron, apply, as_table, from_table, train
from instahide_nb.attacks.carlini.similarity import energy_similarity
from instahide_nb.attacks.carlini.stages import Stages
from instahide_nb.attacks.unmask.assignment import Slots, read_slots
from instahide_nb.challenge.release import Release, ReleaseInfo
from instahide_nb.core.errors import InputError
from instahide_nb.core.files import load_array


def made_slots(n: int, classes: int, per_class: int, seed: int = 0) -> tuple[Slots, np.ndarray, np.ndarray]:
    """Labels of n pairs of distinct images, and the pairs in the order of the slots."""
    rng = np.random.default_rng(seed)
    pair = np.array([rng.permutation(classes * per_class)[:2] for _ in range(n)])
    coefficient = rng.uniform(0.1, 0.45, (n, 2)).astype(np.float32)
    label = np.zeros((n, classes), np.float32)
    for s in range(2):
        label[np.arange(n), pair[:, s] // per_class] += coefficient[:, s]
    swapped = coefficient[:, 0] < coefficient[:, 1]
    pair[swapped] = pair[swapped, ::-1]
    return read_slots(label, classes * per_class), label, pair


def ideal_similarity(pair: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
    """The product of the two coefficients of a shared image, and a little noise."""
    n = len(pair)
    held = np.zeros((n, pair.max() + 1))
    for s in range(2):
        held[np.arange(n), pair[:, s]] += coefficient[:, s]
    noise = np.random.default_rng(5).normal(0, 0.005, (n, n))
    return (held @ held.T + (noise + noise.T) / 2).astype(np.float32)


# similarity


def test_energy_similarity_is_symmetric_and_does_not_feel_the_mask():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (12, 8, 8, 3)).astype(np.float32)
    sign = rng.choice(np.array([-1, 1], np.float32), x.shape)
    label = np.ones((12, 1), np.float32)
    public = np.zeros((1, 8, 8, 3), np.uint8)
    plain, masked = (energy_similarity(Release(v, label, ReleaseInfo()), public) for v in (x, x * sign))
    assert plain.tobytes() == masked.tobytes()
    assert (plain == plain.T).all()
    assert plain.diagonal() == pytest.approx(1.0, abs=1e-6)


# groups


def test_groups_are_grown_from_the_nearest():
    similarity = np.eye(6, dtype=np.float32)
    for i, j, v in [(0, 1, 0.9), (1, 2, 0.8), (0, 2, 0.1), (0, 3, 0.5), (1, 3, 0.3)]:
        similarity[i, j] = similarity[j, i] = v

    class First(np.random.Generator):
        def integers(self, *args, **kwargs):
            return np.zeros(args[2], np.int64)

    member = grow_groups(similarity, np.array([0]), 4, First(np.random.PCG64(0)))
    # 1 is nearest to 0; then 2 (0.8 + 0.1) is nearer to both together than 3 (0.5 + 0.3)
    assert member.tolist() == [[0, 1, 2, 3]]


def test_grown_groups_have_distinct_members():
    rng = np.random.default_rng(1)
    similarity = rng.normal(size=(40, 40)).astype(np.float32)
    member = grow_groups(similarity + similarity.T, np.arange(40), 25, rng)
    assert all(len(set(row)) == 25 for row in member.tolist())
    assert (member[:, 0] == np.arange(40)).all()


def test_selected_groups_are_confirmed_and_have_little_in_common():
    member = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [4, 5, 6, 7], [8, 9, 10, 11]])
    # the first three are one group, thrice; the others stand alone and come in the second pass
    assert select_groups(member, 12, 1, 4).tolist() == [0]
    assert select_groups(member, 12, 3, 4).tolist() == [0, 3, 4]
    # more groups than there are: the least shared follow, no row twice
    assert sorted(select_groups(member, 12, 9, 4).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("labels", ["groups", "matching"])
def test_dense_groups_find_every_image(labels):
    slots, label, pair = made_slots(600, 4, 3)
    similarity = ideal_similarity(pair, slots.coefficient)
    groups = dense_groups(similarity, label, slots, labels)
    assert len(groups.member) == 12
    second = second_similarity(similarity, groups, label, labels)
    found = set()
    for g, row in enumerate(groups.member):
        core = pair[row[: groups.core]]
        image, count = np.unique(core, return_counts=True)
        best = image[np.argmax(count)]
        found.add(best)
        assert groups.image_class[g] == best // 3
        holds = (pair == best).any(axis=1)
        assert second[holds, g].mean() > second[~holds, g].mean() + 0.03
    assert len(found) >= (12 if labels == "groups" else 10)


def test_a_class_that_occurs_only_with_itself_has_groups_too():
    pair = np.array([[0, 1], [1, 0]] * 15 + [[2, 4], [3, 4], [2, 5], [3, 5]] * 5)
    label = np.zeros((50, 3), np.float32)
    coefficient = np.random.default_rng(0).uniform(0.1, 0.4, (50, 2)).astype(np.float32)
    for s in range(2):
        np.add.at(label, (np.arange(50), pair[:, s] // 2), coefficient[:, s])
    groups = dense_groups(ideal_similarity(pair, coefficient), label, read_slots(label, 6))
    assert 0 in groups.image_class


def test_second_similarity_does_not_count_an_encryption_itself():
    label = np.ones((4, 1), np.float32)
    similarity = np.full((4, 4), 0.25, np.float32)
    np.fill_diagonal(similarity, 100.0)
    groups = Groups(np.array([[0, 1, 2, 3, -1, -1]]), np.array([0]))
    assert second_similarity(similarity, groups, label).ravel().tolist() == [0.25] * 4


# matching


@pytest.mark.parametrize("matching", ["optimal", "greedy"])
def test_matching_respects_labels_and_capacities(matching):
    slots, _, _ = made_slots(120, 3, 2)
    image_class = np.repeat(np.arange(3), 2)
    score = np.random.default_rng(2).normal(size=(120, 6)).astype(np.float32)
    found = match(score, image_class, slots, matching)
    known = found >= 0
    assert (image_class[found[known]] == slots.image_class[known]).all()
    assert ((found[:, 0] != found[:, 1]) | ~known.all(axis=1)).all()  # never one image in both places
    held = np.bincount(found[known], minlength=6)
    rows = np.bincount(slots.image_class.ravel(), minlength=3)
    limit = np.maximum(2 * 120 // 6, -(-rows // 2)) if matching == "optimal" else np.full(3, 32)
    assert (held <= limit[image_class]).all()
    assert known.all() == (matching == "optimal")


def test_optimal_matching_is_the_best_of_all():
    label = np.array([[0.4, 0.2], [0.3, 0.25], [0.2, 0.5], [0.35, 0.1]], np.float32)
    slots = read_slots(label, 4)
    image_class = np.array([0, 0, 1, 1])
    score = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
    found = optimal_matching(score, image_class, slots)
    taken = sum(score[i, g] for i, row in enumerate(found) for g in row)
    best = 0.0
    for groups in ([0, 1], [2, 3]):  # each class: four slots, two places for each image
        best += max(
            sum(score[i, g] for i, g in enumerate(way))
            for way in itertools.product(groups, repeat=4)
            if way.count(groups[0]) == 2
        )
    assert taken == pytest.approx(best, abs=1e-6)


def test_with_a_perfect_score_both_matchings_are_right():
    slots, _, pair = made_slots(300, 3, 3)
    score = (pair[:, :, None] == np.arange(9)).any(axis=1).astype(np.float32)
    image_class = np.repeat(np.arange(3), 3)
    apart = ~slots.shared
    best, fast = optimal_matching(score, image_class, slots), greedy_matching(score, image_class, slots)
    # capacities may force a few slots of an image that occurs more often than the mean to another
    assert (best == pair)[apart].mean() > 0.9
    assert (fast == pair)[apart & (fast >= 0).all(axis=1)].mean() > 0.95
    assert (fast >= 0).mean() < (best >= 0).mean() == 1.0


# gradient descent with free signs


def descent_problem(n: int = 60, images: int = 5, width: int = 7):
    rng = np.random.default_rng(4)
    truth = rng.uniform(-1, 1, (images, width)).astype(np.float32)
    pair = np.array([rng.permutation(images)[:2] for _ in range(n)])
    coefficient = rng.uniform(0.2, 0.6, (n, 2)).astype(np.float32)
    size = np.abs((truth[pair] * coefficient[:, :, None]).sum(axis=1)).astype(np.float32)
    return truth, pair, coefficient, size


def test_descent_from_nearby_finds_the_images():
    truth, pair, coefficient, size = descent_problem()
    start = truth + np.random.default_rng(0).normal(0, 0.05, truth.shape).astype(np.float32)
    found = free_sign_descent(size, pair, coefficient, 5, start=start, push=0.0)
    assert np.abs(found - truth).max() < 1e-3
    assert free_sign_loss(size, found, pair, coefficient) < 1e-6


def test_sign_is_free_and_the_mirrored_start_finds_the_mirrored_images():
    _, pair, coefficient, size = descent_problem()
    start = np.random.default_rng(1).uniform(-1, 1, (5, 7)).astype(np.float32)
    one = free_sign_descent(size, pair, coefficient, 5, start=start, iterations=200)
    two = free_sign_descent(size, pair, coefficient, 5, start=-start, iterations=200)
    assert (one == -two).all()


def test_from_zero_all_pixels_take_the_negative_sign():
    """The published start: at zero the sign is a tie, which goes one way for all."""
    truth, pair, coefficient, size = descent_problem()
    found = free_sign_descent(size, pair, coefficient, 5, iterations=20)
    assert (found < 0).all()
    assert (truth > 0).any()


def test_descent_lowers_the_loss_and_unknown_images_count_as_zero():
    truth, pair, coefficient, size = descent_problem()
    half = pair.copy()
    half[:, 1] = -1
    found = free_sign_descent(size, half, coefficient, 5, start=truth, push=0.0)
    assert free_sign_loss(size, found, half, coefficient) < free_sign_loss(size, truth, half, coefficient)
    one = np.sum(size * coefficient[:, :1] * (half[:, :1] == 0), axis=0)
    one /= np.sum(coefficient[:, 0] ** 2 * (half[:, 0] == 0))
    assert np.abs(found[0]) == pytest.approx(one, abs=1e-3)  # then least squares has a closed form


def test_pixels_do_not_feel_each_other():
    _, pair, coefficient, size = descent_problem(width=130)
    start = np.full((5, 130), 0.3, np.float32)
    whole = free_sign_descent(size, pair, coefficient, 5, start=start, iterations=50, push=0.0)
    flipped = free_sign_descent(
        size[:, ::-1].copy(), pair, coefficient, 5, start=start, iterations=50, push=0.0
    )
    assert (whole == flipped[:, ::-1]).all()


def test_descent_refuses_a_start_of_another_shape():
    _, pair, coefficient, size = descent_problem()
    with pytest.raises(InputError, match="start"):
        free_sign_descent(size, pair, coefficient, 5, start=np.zeros((4, 7), np.float32))


@given(st.floats(0.01, 10), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_stretch_undoes_contrast_and_brightness(contrast, brightness):
    image = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 3)).astype(np.float32)
    plain, moved = stretch(image), stretch((image * contrast + brightness).astype(np.float32))
    assert plain == pytest.approx(moved, abs=2e-3)
    assert plain.min(axis=(1, 2, 3)).tolist() == [-1.0] * 3
    assert plain.max(axis=(1, 2, 3)).tolist() == [1.0] * 3


def test_stretch_of_a_flat_image_is_finite():
    assert np.isfinite(stretch(np.full((1, 2, 2, 3), 0.5, np.float32))).all()


# what is learned


def test_perceptron_computes_what_its_weights_say():
    network = Perceptron(
        inner=np.array([[1.0, -1.0], [2.0, 0.5]], np.float32),
        inner_bias=np.array([0.0, 1.0], np.float32),
        outer=np.array([[1.0, 2.0]], np.float32),
        outer_bias=np.array([-0.5], np.float32),
    )
    x = np.array([[1.0, 1.0], [-2.0, 0.0]], np.float32)
    # hidden: (3, 0.5) and (0, 3); out: 3 + 1 - 0.5 and 0 + 6 - 0.5
    assert apply(network, x).tolist() == [[3.5], [5.5]]
    again = from_table(as_table(network), outputs=1)  # as kept in a file
    assert all(getattr(again, f).tolist() == getattr(network, f).tolist() for f in vars(network))


def test_training_descends_and_is_the_same_again():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2000, 3)).astype(np.float32)
    y = np.stack([x[:, 0] * 0.5 - 0.2, np.maximum(x[:, 1], x[:, 2])], axis=1).astype(np.float32)
    short, long, again = (train(x, y, 10, epochs=e, rate=0.01) for e in (1, 40, 40))
    loss = [float(((apply(network, x) - y) ** 2).mean()) for network in (short, long)]
    assert loss[1] < 0.1 * loss[0]
    assert loss[1] < 0.002
    assert all(
        getattr(long, f).tobytes() == getattr(again, f).tobytes() for f in ("inner", "outer", "outer_bias")
    )


def test_first_step_of_training_follows_the_gradient():
    """One batch, one step of Adam: every weight moves by the rate, against the sign of its slope."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(16, 2)).astype(np.float32)
    y = rng.normal(size=(16, 1)).astype(np.float32)
    start = train(x, y, 4, epochs=1, rate=0.0)
    moved = train(x, y, 4, epochs=1, rate=1e-3)

    def loss(**change) -> float:
        parts = {
            f: getattr(start, f).astype(np.float64) for f in ("inner", "inner_bias", "outer", "outer_bias")
        }
        parts |= change
        hidden = np.maximum(x @ parts["inner"] + parts["inner_bias"], 0)
        return float(((hidden @ parts["outer"].T + parts["outer_bias"] - y) ** 2).sum() / len(x))

    for name in ("inner", "inner_bias", "outer", "outer_bias"):
        own = getattr(start, name).astype(np.float64)
        for place in np.ndindex(own.shape):
            up, down = own.copy(), own.copy()
            up[place] += 1e-5
            down[place] -= 1e-5
            slope = (loss(**{name: up}) - loss(**{name: down})) / 2e-5
            step = float(getattr(moved, name)[place]) - float(own[place])
            if abs(slope) > 1e-4:
                assert step == pytest.approx(-1e-3 * np.sign(slope), rel=1e-2)


def test_colour_curve_undoes_a_colour_cast():
    truth = np.random.default_rng(0).uniform(-0.9, 0.9, (20, 32, 32, 3)).astype(np.float32)
    cast = (0.5 * truth[..., ::-1] + np.array([0.2, 0.0, -0.2], np.float32)).astype(np.float32)
    made = colour(cast, learn_colour_curve(cast, truth))
    assert np.abs(made - truth).mean() < 0.1 * np.abs(cast - truth).mean()
    assert made.shape == truth.shape
    assert np.abs(made).max() <= 1


def test_colour_curve_sees_one_pixel_at_a_time():
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    curve = learn_colour_curve(image, (image * 0.7).astype(np.float32))
    place = rng.permutation(64)
    mixed = image.reshape(2, 64, 3)[:, place].reshape(image.shape)
    assert (colour(image, curve).reshape(2, 64, 3)[:, place] == colour(mixed, curve).reshape(2, 64, 3)).all()


def test_windows_are_centred():
    image = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    part = windows(image, 1).reshape(2, 5, 6, 3, 3, 3)
    assert (part[:, :, :, 1, 1] == image).all()
    assert (part[:, 1:, :, 0, 1] == image[:, :-1]).all()
    assert (part[:, :, :-1, 1, 2] == image[:, :, 1:]).all()
    assert (part[:, 0, 0, 0, 0] == image[:, 0, 0]).all()  # the edge is repeated


def test_cleaning_learns_to_smooth_images_that_it_has_not_seen():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] / 16
    wave = rng.uniform(0, 6, (12, 1, 1, 3)), rng.uniform(0, 6, (12, 1, 1, 3))
    truth = (0.7 * np.cos(wave[0] * y[:, :, None] + wave[1] * x[:, :, None])).astype(np.float32)
    noisy = (truth + rng.normal(0, 0.3, truth.shape)).astype(np.float32)
    made = clean(noisy[8:], learn_cleaning(noisy[:8], truth[:8]))
    assert ((made - truth[8:]) ** 2).mean() < 0.4 * ((noisy[8:] - truth[8:]) ** 2).mean()


# stages


class NoBar:
    """In place of a progress bar."""

    steps = 0

    def set_postfix_str(self, text):
        self.text = text

    def update(self, count):
        self.steps += count


@pytest.mark.parametrize("with_folder", [True, False])
def test_a_stage_hands_on_what_its_file_holds(tmp_path, monkeypatch, with_folder):
    """Whoever changes a file between two stages changes what the next one sees."""
    stage = Stages(tmp_path if with_folder else None, NoBar())
    monkeypatch.setattr(
        "instahide_nb.attacks.carlini.stages.load_array", lambda path, **kind: load_array(path, **kind) + 1
    )
    assert stage("numbers", lambda: np.arange(3)).tolist() == ([1, 2, 3] if with_folder else [0, 1, 2])
    inner = stage.inside("simulation")
    inner("numbers", lambda: np.zeros(1))
    found = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.npy"))]
    assert found == (["numbers.npy", "simulation/numbers.npy"] if with_folder else [])
    assert sorted(stage.seconds) == ["numbers", "simulation: numbers"]
    assert stage.bar.steps == 2
