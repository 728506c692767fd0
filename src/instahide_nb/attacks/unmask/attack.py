"""The `unmask` attack: private images from masked mixtures, without the generator's bug.

One model serves every release: ``x_i = s_i (sum_j a_ij V_ij P_j + R_i)`` with signs s, private images P, coefficients
a, views V (`windows`) and the public rest R. Labels, sums and epochs constrain a where they are known (`constraints`).
Edge energies give the first codes (`edges`, `codes`; with views `crops`). The first images come from squares, up to one
sign that colours decide (`squares`), or, if images are cropped, from message passing (`windows`). Then rounds of signs
(`signs`), codes and least squares (:mod:`..mixtures`) follow. The last rounds use the public images that encryptions
share (`shared_public`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.mixtures import Fit, Mixtures, Weights, fit, fit_variance, influence, mean_square, predictions
from instahide_nb.attacks.result import AttackResult
from instahide_nb.attacks.unmask import cleaning, codes, crops, edges, shared_public, signs, squares
from instahide_nb.attacks.unmask.codes import Codes
from instahide_nb.attacks.unmask.constraints import (
    Known,
    by_law,
    coefficient_law,
    known_of,
    scales_by_law,
    scales_by_sum,
)
from instahide_nb.attacks.unmask.smoothness import Moments, Smoothness, public_moments, smoothness
from instahide_nb.attacks.unmask.windows import Windows, both_ways, image_of, on_canvas, view_table
from instahide_nb.challenge.release import Release
from instahide_nb.core.arrays import Float32, Float64, Int64
from instahide_nb.core.errors import InputError
from instahide_nb.core.progress import Stopwatch
from instahide_nb.core.progress import progress as progress_bar
from instahide_nb.scheme.encryption import pixel_bytes, pixel_values
from instahide_nb.scheme.views import PAD, apply_views

_WRONG = np.float32(0.08)  # variance of small private images that may be wrong, times their squared coefficient
_RIDGE = 0.3  # white noise added to the public covariance, as a share of a pixel's variance
_REPAIR_RIDGE = 0.1
_SHARED_RIDGE = 0.05  # the same, for the whitening with which residuals are compared
_PULL = 1e-3  # ridge of images towards the mean public image, as a share of the mean diagonal of the normal matrix
_SMALLEST = np.float32(0.003)  # covariance of a residual, in units of the public covariance
_NO_REST = np.float32(0.01)  # the same where there are no public images
_SQUARES = {1: 1.0, 2: 0.7, 3: 0.5}  # sum of squared shares, by number of public images; 0.4 for more
_VALUES_PER_ROW = 15  # values of an image per row of an epoch; with fewer, the covariance of an epoch is too uncertain
_TOGETHER = 5000  # rows compared with each other if they are not in epochs
_TOGETHER_IN_EPOCHS = 2000  # and in whole epochs
_ROWS = 1000  # encryptions at a time
_SIDE = 7  # least height and width of an image in pixels
_BETTER = 0.06  # share of the mean gain by which other codes must fit the edges of a row better to replace its code
_TOO_SMALL = 0.93  # share of the least sum of private coefficients; smaller sums show wrong codes
_WORTHLESS = 0.04  # share of the median margin of images; images with less are replaced
_SETTLED = 1 / 255  # a round that changes images by less is the last
_GRACE = 2  # rounds that a restarted image has before it is judged
_CLEANED = 0.07  # least standard deviation of the first images at which a network cleans images; near T = 40
_CERTAIN = 10  # rows per image that the first images need
_GROUP, _STRENGTH = 30, 0.35  # rows from which an image is restarted, and its coefficient in them
_CONTRADICTIONS = 5  # mean contradictions of edges that make an image as likely right as wrong


@dataclass(frozen=True)
class Settings:
    """What the attack does; the defaults are the whole attack, an ablation switches parts off."""

    rounds: int = 2  # at most, of signs, codes and images, each encryption on its own
    shared_rounds: int = 10  # at most, with public images that encryptions share
    coupled: bool = True  # infer the signs of an encryption together
    repair: bool = True  # flip pixels of the wrong sign
    second_opinion: bool = True  # replace codes where others fit the edges of a row much better
    restarts: bool = True  # replace superfluous images
    cleaning: bool = True  # clean images by a network if encryptions are few


@dataclass(frozen=True)
class UnmaskResult:
    """Everything that `solve` found."""

    recovered: Float32  # (N, h, w, 3) in [-1, 1], ordered by class where there are labels
    assignment: Int64  # (n, p): the private images of each encryption, the largest coefficient first
    view: npt.NDArray[np.int8]  # (n, p, 3): their views, see scheme.views
    coefficient: Float32  # (n, p)
    confidence: Float32  # (n, p): log-likelihood of each image above the next best in its place
    signed: Float32  # (n, h, w, 3): each encryption with its mask removed, |x| E[sign]
    predicted: Float32  # (n, h, w, 3): mean prediction of each encryption
    variance: Float32  # (n,): of the encryption about its prediction
    history: list[Float32] = field(default_factory=list)  # the images after each of the `stages`
    stages: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    # the attack's estimates of its own success, as JSON values
    details: dict[str, object] = field(default_factory=dict)


def _planar(image: Float32) -> Float32:
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def _interleaved(image: Float32) -> Float32:
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


@dataclass
class Estimates:
    """The current estimates; images and encryptions are planar (channels, h, w)."""

    known: Known
    law: Float64  # (draws, p): of the private coefficients, from `coefficient_law`
    n_public: int  # public images of an encryption, k - p
    least_sum: float  # of the private coefficients of a row
    moments: Moments  # of public images
    size: Float32  # (n, channels, h, w): absolute values of the encryptions
    mixtures: Mixtures  # -1 for images that are unknown
    scale: Float32  # (n,): covariance of each residual, in units of the public covariance
    image: Float32  # (N, channels, h, w)
    signed: Float32  # (n, channels, h, w): encryptions with their mask lifted
    # what rows say about each other's residuals; None while each counts by its own scale
    weights: Weights | None = None
    # (n, channels, h, w): residuals as rows that share public images predict them
    expected: Float32 | None = None
    fitted: Fit | None = None  # what the images were fitted to

    @property
    def mean(self) -> Float32:
        """Mean public image, flat."""
        return np.repeat(self.moments.mean, self.size[0, 0].size)

    def smoothness(self, ridge: float) -> Smoothness:
        """The precision filter for images of this size."""
        return smoothness(self.moments, self.size.shape[2], self.size.shape[3], ridge)

    def blocks(self) -> list[slice]:
        """A thousand encryptions at a time: as one piece, intermediate results would be arrays of their size."""
        return [slice(low, low + _ROWS) for low in range(0, len(self.size), _ROWS)]

    def predict(self, rows: slice | Int64) -> Float32:
        """Prediction of some encryptions, planar."""
        flat = self.image.reshape(len(self.image), -1)
        made = predictions(self.mixtures.part(rows), flat, self.mean).reshape(-1, *self.size.shape[1:])
        if self.expected is not None:
            made += self.expected[rows]
        return made

    def residual(self, rows: slice | Int64) -> Float32:
        """Encryptions with their mask lifted, less their predictions."""
        made = self.predict(rows)
        return np.subtract(self.signed[rows], made, out=made)

    def infer_signs(self, ridge: float, coupled: bool, rows: Int64 | None = None) -> None:
        """Infer the signs of all rows, or of some: `signed`."""
        local, temperature = self.smoothness(ridge), signs.TEMPERATURE if coupled else signs.TEMPERATURE[:0]
        for part in self.blocks() if rows is None else [rows]:
            made = self.predict(part), self.scale[part], self.moments.variance
            self.signed[part] = signs.lift_masks(self.size[part], *made, local, temperature)

    def row_weights(self) -> Weights:
        """Weight of each row in a fit; 0 if one of its images is unknown."""
        if self.weights is not None:
            return self.weights
        known = (self.mixtures.assignment >= 0).all(axis=1)
        return np.where(known, np.float32(1) / self.scale, 0)

    def fit_images(self) -> None:
        """Solve for the private images by (generalised) least squares: `image`, `fitted`."""
        weights = self.row_weights()
        if self.known.views is not None:
            rows, start = self.signed - self.public_mean(), self.canvas
            centre = np.broadcast_to(self.moments.mean[:, None, None], (self.known.n_images, *self.size.shape[1:]))
            found = self.windows.fit(rows, self.mixtures, weights, on_canvas(centre, np.inf), start, _PULL)
            self.replace_images(np.clip(found, -1, 1)[:, :, PAD:-PAD, PAD:-PAD])
            return
        flat = self.signed.reshape(len(self.signed), -1)
        image = np.clip(fit(flat, self.mixtures, weights, self.mean, _PULL), -1.0, 1.0)
        self.image = image.astype(np.float32).reshape(-1, *self.size.shape[1:])
        self.fitted = Fit(self.image, self.mixtures, influence(self.mixtures, weights, _PULL))

    def deviation(self) -> Float64:
        """Standard deviation of a pixel of each image if all signs were right, (N,)."""
        held = image_of(self.mixtures.assignment, self.known.n_images)
        images = Mixtures(held, self.mixtures.coefficient, self.known.n_images)
        return np.sqrt(float(self.moments.variance) * fit_variance(images, self.row_weights(), _PULL))

    @property
    def windows(self) -> Windows:
        """The windows of rows, if there are views."""
        assert self.known.views is not None
        return Windows(self.known.views, np.arange(self.size.shape[1]))

    @property
    def canvas(self) -> Float32:
        """Images with their black border."""
        return on_canvas(self.image[: self.known.n_images])

    def flip_gain(self) -> Float32:
        """Gain from flipping the sign of each pixel of each image, (N, channels, h, w)."""
        size, image = self.size.reshape(len(self.size), -1), self.image.reshape(len(self.image), -1)
        gain = signs.flip_gain(size, image, self.mixtures, self.scale * self.moments.variance, self.mean)
        gain = gain.reshape(self.image.shape)
        if self.known.views is None:
            return gain
        every = np.arange(len(gain))[:, None]
        return self.windows.spread(gain, every, np.ones(every.shape), self.canvas)[:, :, PAD:-PAD, PAD:-PAD]

    def replace_images(self, image: Float32) -> None:
        """Take other images, and all views of them where rows hold these: `image`."""
        if self.known.views is not None:
            image = self.windows.candidates(on_canvas(image), image.shape[2:])
        self.image = image

    def public_mean(self) -> Float32:
        """Mean of the public images of each row, (n, channels, 1, 1)."""
        return self.mixtures.rest.astype(np.float32)[:, None, None, None] * self.moments.mean[:, None, None]

    def pass_messages(self, start: Float32 | None) -> None:
        """Images from absolute values: `image`."""
        noise, small = self.scale * self.moments.variance, self.mixtures.coefficient[:, 1:]
        if start is None:
            noise = noise + _WRONG * (small * small).sum(axis=1)
        found = self.windows.pass_messages(self.size, self.mixtures, noise, self.moments.mean, start)
        self.replace_images(found[:, :, PAD:-PAD, PAD:-PAD])

    def clean(self) -> None:
        """Clean the images by a network: `image`."""
        image = self.image[: self.known.n_images]
        self.replace_images(cleaning.clean(image, self.flip_gain(), self.deviation()))

    def measure_residuals(self) -> None:
        """Estimate the covariance of each residual, half from the coefficients and half from the residual: `scale`."""
        half, left = np.float32(0.5), np.empty(len(self.size))
        for rows in self.blocks():
            left[rows] = mean_square(self.residual(rows).reshape(len(left[rows]), -1))
        measured = (left / float(self.moments.variance)).astype(np.float32)
        self.scale = np.maximum(half * prior_scale(self.mixtures, self.n_public) + half * measured, _SMALLEST)

    def repair_signs(self) -> None:
        """Flip pixels of the images that have the wrong sign: `image`."""
        local = self.smoothness(_REPAIR_RIDGE)
        for _ in range(2):
            image = self.image[: self.known.n_images]
            self.replace_images(signs.repair_signs(image, self.flip_gain(), self.moments.mean, local))

    def find_codes(self) -> Codes:
        """Images and coefficients of all rows, each compared with images fitted without it: `mixtures`."""
        local, centre = self.smoothness(_RIDGE), self.moments.mean[:, None, None]
        if self.known.views is not None:
            private = self.signed - self.public_mean() - (0 if self.expected is None else self.expected)
            coder = crops.Coder(self.known, self.windows, local, private)
            best = coder.codes(self.canvas, self.mixtures, self.scale)
            self.mixtures = scaled(best.mixtures, self.known, self.law, self.n_public)
            return replace(best, gain=best.gain / self.scale, score=best.score / self.scale[:, None, None])

        def rows(part: slice | Int64) -> Float32:
            return self.signed[part] - centre - (0 if self.expected is None else self.expected[part])

        square = codes.square_lengths(rows, len(self.size), local)
        found = codes.products(rows, square, self.image - centre, local, self.fitted)
        best = codes.code_epochs(found, self.known, self.scale, 2 if self.known.per_row <= 3 else 1)
        self.mixtures = scaled(best.mixtures, self.known, self.law, self.n_public)
        return replace(best, gain=best.gain / self.scale, score=best.score / self.scale[:, None, None])

    def take_second_opinion(self, energies: edges.Edges, coupled: bool) -> int:
        """Replace codes where others fit the edges of a row much better; returns how many: `mixtures`, `signed`.

        Signs inferred from a wrong prediction agree with it. The same is done where coefficients are too small.
        """
        found = energies.products(self.mixtures)
        other = energies.codes(found)
        mine = codes.code(found, energies.known, self.mixtures.assignment)
        least = _BETTER * math.fsum(np.maximum(other.gain, 0).tolist()) / len(other.gain)
        better = other.gain - mine.gain > least
        coefficient = other.mixtures.coefficient
        if self.known.share is None and self.n_public:
            coefficient = by_law(coefficient, self.law)
            few = self.mixtures.coefficient.sum(axis=1) < np.float32(_TOO_SMALL * self.least_sum)
            better |= few & (other.gain >= mine.gain)
        held, share = self.mixtures.assignment.copy(), self.mixtures.coefficient.copy()
        rows = np.flatnonzero(better)
        if len(rows):
            held[better], share[better] = other.mixtures.assignment[better], coefficient[better]
            self.mixtures = Mixtures(held, share, self.mixtures.n_images)
            self.scale[rows] = prior_scale(self.mixtures.part(rows), self.n_public)
            self.infer_signs(_RIDGE, coupled, rows)
        return len(rows)

    def restart_images(self, found: Codes, age: Int64) -> int:
        """Start images of no worth anew from rows whose residuals resemble each other; returns how many: `mixtures`.

        `age` (N,) counts the rounds since an image was started; it is changed.
        """
        age += 1
        margin, held = found.margin(), self.mixtures.assignment
        # the median: in epochs, a superfluous image gets the places that no other image fits
        median = np.array([np.median(margin[held == j]) if (held == j).any() else 0.0 for j in range(len(age))])
        typical = float(np.median(median))
        poor = np.flatnonzero((median < _WORTHLESS * typical) & (age > _GRACE))
        theirs = np.isin(held, poor)
        rows = np.flatnonzero(theirs.any(axis=1))
        if len(rows) <= 2 * _GROUP:  # none, where no row holds a poor image
            return 0
        before, candidates = self.mixtures, self.mixtures.n_images
        without = Mixtures(np.where(theirs, -1, before.assignment), before.coefficient, candidates)
        self.mixtures = without
        table = codes.product_table(self.residual(rows), self.smoothness(_RIDGE))
        self.mixtures = before
        if self.known.epochs:
            block = rows // self.known.n_images
            apart = block[:, None] == block
            np.fill_diagonal(apart, False)
            table[apart] = 0
        # what these images explain already did not become an image
        wanted = np.where(theirs, margin, -1)[rows].max(axis=1) <= 0.3 * typical
        table, rows = table[np.ix_(wanted, wanted)], rows[wanted]
        assignment, share, many = without.assignment.copy(), without.coefficient.copy(), 0
        groups = edges.groups_of(table, len(poor), _GROUP, 10, 1) if len(rows) > 2 * _GROUP else []
        for group in groups:
            inside = rows[group.rows]
            fitting = [j for j in poor if self.known.present[inside, self.known.image_class[j]].mean() > 0.5]
            if not fitting:
                continue
            image = fitting[0]
            poor = poor[poor != image]
            for row in inside[self.known.present[inside, self.known.image_class[image]]]:
                free = np.flatnonzero(assignment[row] < 0)
                place = int(free[0]) if len(free) else int(np.argmin(share[row]))
                assignment[row, place], share[row, place] = image, _STRENGTH
            age[image], many = 0, many + 1
        if many:
            kept = np.isin(held, poor) & (assignment < 0)  # of images that found no group
            assignment[kept], share[kept] = before.assignment[kept], before.coefficient[kept]
            share[assignment < 0] = 0
            self.mixtures = Mixtures(assignment, share, candidates)
        return many

    def learn_shared_public(self, epoch: int | None, blocks: list[slice]) -> None:
        """Learn from the residuals which rows share public images: `weights`, `expected`, `scale`.

        `epoch` is the number of rows of an epoch; without epochs rows are compared within `blocks`.
        """
        expected = np.empty_like(self.size) if self.expected is None else self.expected
        self.expected, local = None, self.smoothness(_SHARED_RIDGE)
        if epoch is not None:
            self.weights, scale = shared_public.by_epoch(self.residual, epoch, local, expected)
        else:
            held = image_of(self.mixtures.assignment, self.known.n_images)
            self.weights, scale = shared_public.by_correlation(self.residual, held, blocks, local, expected)
        self.expected, self.scale = expected, np.maximum(scale, _SMALLEST)

    def choose_sign(self, axis: Float64) -> None:
        """A few rounds that favour neither sign, then the sign under which mean colours are a photograph's: `image`.

        These rounds leave the mean public image out; the likelihood cannot decide. `axis`: see `squares.colour_axis`.
        """
        known = self.moments
        self.moments = replace(known, mean=np.zeros_like(known.mean))
        for _ in range(3):
            self.infer_signs(0.0, coupled=False)
            self.fit_images()
        votes = squares.rather_photograph(_mean_colours(self.image), axis)
        total = math.fsum(votes) / len(votes)
        if self.n_public:
            used = (self.mixtures.assignment >= 0).all(axis=1)
            left = np.concatenate([_mean_colours(self.residual(rows)) for rows in self.blocks()])[used]
            rest = math.fsum(self.mixtures.rest[used].tolist())
            public = np.array([math.fsum(column) for column in left.T]) / max(rest, 1e-9)
            total += float(squares.rather_photograph(public, axis))
        sign = np.float32(1 if total >= 0 else -1)
        self.moments, self.image = known, sign * self.image


def _mean_colours(image: Float32) -> Float64:
    """Mean of each channel of planar images, float64 (n, channels)."""
    pixels = np.ascontiguousarray(image.reshape(*image.shape[:2], -1).transpose(2, 0, 1), np.float64)
    mean: Float64 = pixels.sum(axis=0) / len(pixels)
    return mean


def prior_scale(mixtures: Mixtures, n_public: int) -> Float32:
    """Expected covariance of the residual of encryptions, in units of the public covariance.

    The rest of the coefficients is shared by the public images: its square times the sum of squares of their shares.
    """
    if not n_public:
        return np.full(len(mixtures.assignment), _NO_REST)
    rest = np.maximum(np.float32(1) - mixtures.coefficient.sum(axis=1), np.float32(0.02))
    return (rest * rest * np.float32(_SQUARES.get(n_public, 0.4)) + np.float32(0.005)).astype(np.float32)


def scaled(mixtures: Mixtures, known: Known, law: Float64, n_public: int) -> Mixtures:
    """Coefficients on the scale of the scheme: by known sums or, without any, by the distribution."""
    held = image_of(mixtures.assignment, known.n_images)
    images = Mixtures(held, mixtures.coefficient, known.n_images)
    by_sum = known.share is not None or not n_public
    by = scales_by_sum(images, known) if by_sum else scales_by_law(images, law)
    return Mixtures(mixtures.assignment, mixtures.coefficient * by[held], mixtures.n_images)


def share_right(known: Known, margin: Float32, by_edges: Float64 | None) -> float:
    """Estimate the share of images that are right from their margins (n, p) and those of `edges.margins`.

    Images are fitted to signs that follow from them, so margins are too large, and much too large where encryptions are
    few. Then edges contradict often and strongly: their mean contradiction is the unit of both margins. Without any
    margin an image is right by chance. With views edges are not compared, and margins count as they are.
    """
    if by_edges is None:
        u = margin.astype(np.float64) / 2
        right = 0.5 + 0.5 * u / np.sqrt(1 + u * u)
    else:
        against = math.fsum(np.maximum(-by_edges, 0).ravel().tolist()) / by_edges.size
        both = np.maximum(margin, 0) + np.maximum(by_edges, 0)
        square = (both / (_CONTRADICTIONS * max(against, 1e-9))) ** 2
        candidates = (known.present * np.bincount(known.image_class, minlength=known.present.shape[1])).sum(axis=1)
        wrong = 1 - known.present.sum(axis=1) / candidates  # each class has a place
        right = 1 - wrong[:, None] / (1 + square)
    return round(math.fsum(right.ravel().tolist()) / right.size, 4)


def _check(release: Release, public: npt.NDArray[np.uint8]) -> None:
    info = release.info
    height, width = release.encryption.shape[1:3]
    if min(height, width) < _SIDE:
        raise InputError(
            f"encryption.npy: images of {height}x{width} are too small for unmask; {_SIDE}x{_SIDE} at least"
        )
    if public.ndim != 4 or public.shape[3] != release.encryption.shape[3] or public.dtype != np.uint8:
        raise InputError(f"public_source: unmask needs uint8 images (m, h, w, 3), not {public.dtype} {public.shape}")
    if len(public) < 50:
        raise InputError(f"n_public: {len(public)} public images are too few for unmask to learn from; 50 at least")
    if info.n_private < 2:
        raise InputError(f"release.json: n_private is {info.n_private}; unmask needs two private images or more")
    if len(release.encryption) < info.n_private:
        raise InputError(
            f"release.json: {len(release.encryption)} encryptions are too few for {info.n_private} private images; "
            "unmask needs at least as many encryptions as images"
        )


def _features(encryption: Float32, known: Known, moments: Moments, masked: bool, public: bool) -> edges.Edges:
    """Edge energies; without a mask, the encryptions themselves."""
    if masked:
        return edges.edges_of(encryption, known, squares=public)
    feature = _planar(encryption) - moments.mean[:, None, None]
    local = smoothness(moments, feature.shape[2], feature.shape[3], _RIDGE)
    square = codes.square_lengths(feature.__getitem__, len(feature), local)
    return edges.Edges(known, feature, local, square)


def count_private(release: Release, public: npt.NDArray[np.uint8]) -> Release:
    """The release with the number of private images estimated from its encryptions, unchanged without an estimate."""
    info, encryption = release.info, np.ascontiguousarray(release.encryption, np.float32)
    known, masked = known_of(replace(release, label=None)), info.scheme != "mixup"
    features = _features(encryption, known, public_moments(public), masked, info.k > info.private_per_row)
    number = edges.count_images(features)
    return release.with_images(number) if number else release


class Unmask:
    """The attack, one stage after the other.

    Of the attacker's `public` images (m, h, w, 3) mean colours and autocovariance are used; `progress` is called with
    the name of each stage as it begins. An InputError says that release or public images do not suit the attack.
    """

    def __init__(
        self,
        release: Release,
        public: npt.NDArray[np.uint8],
        *,
        settings: Settings | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        _check(release, public)
        self.release, self.public, self.settings = release, public, settings or Settings()
        self.watch = Stopwatch(report=progress)
        self.cleaned, self.uncertain = 0, False  # rounds that began with a cleaning, and whether the next will
        self.history: list[tuple[str, Float32]] = []
        self.masked = release.info.scheme != "mixup"
        self.encryption = np.ascontiguousarray(release.encryption, np.float32)

    def find_edges(self) -> edges.Edges:
        """Stage 1: edge energies, and the statistics of natural images."""
        with self.watch.stage("public model"):
            self.moments = public_moments(self.public)
        with self.watch.stage("edges"):
            info, known = self.release.info, known_of(self.release)
            if info.augment != "none":
                views = view_table(info.augment)
                known = replace(known, image_class=np.tile(known.image_class, len(views)), views=views)
            public = info.k > info.private_per_row
            self.energies = _features(self.encryption, known, self.moments, self.masked, public)
        return self.energies

    def find_first_codes(self) -> Estimates:
        """Stage 2: clusters of encryptions, and the images and coefficients of each row that follow from edges."""
        info = self.release.info
        n_public = info.k - info.private_per_row
        with self.watch.stage("first codes"):
            start = edges.first_codes if self.energies.known.views is None else crops.first_codes
            self.codes, self.energies = start(self.energies)
            law = coefficient_law(info)
        known = self.energies.known
        mixtures = scaled(self.codes.mixtures, known, law, n_public)
        if known.share is None:
            share = mixtures.coefficient
            share = by_law(share, law) if n_public else share / np.maximum(share.sum(axis=1, keepdims=True), 1e-6)
            mixtures = Mixtures(mixtures.assignment, share.astype(np.float32), mixtures.n_images)
            if not n_public and known.present.shape[1] == 1:
                known = replace(known, share=np.ones((len(share), 1)))
        planar = _planar(self.encryption)
        size = np.abs(planar) if self.masked else planar
        image = np.zeros((mixtures.n_images, *planar.shape[1:]), np.float32)
        scale = prior_scale(mixtures, n_public)
        limits = law, n_public, info.min_private_sum
        self.now = Estimates(known, *limits, self.moments, size, mixtures, scale, image, planar.copy())
        return self.now

    def find_first_images(self) -> Estimates:
        """Stage 3: images from squares up to one sign, and that sign from colours."""
        now = self.now
        if not self.masked:
            with self.watch.stage("least squares"):
                now.fit_images()
            self._remember("least squares")
            return now
        self.age = np.full(now.known.n_images, _GRACE + 1)
        deviation = now.deviation() if self.settings.cleaning and now.size.shape[1] == 3 else np.zeros(1)
        self.uncertain = float(np.median(deviation)) > _CLEANED
        if now.known.views is not None and len(now.known.views) > 2:
            with self.watch.stage("messages"):
                now.pass_messages(None)
            self._remember("messages")
            return now
        everything = now.mixtures
        now.mixtures = self._certain(everything)
        with self.watch.stage("squares"):
            rows, mixtures = self.encryption, now.mixtures
            if now.known.views is not None:
                rows, mixtures = np.concatenate([rows, rows[:, :, ::-1]]), both_ways(mixtures)
            now.image = _planar(squares.first_images(rows, mixtures))
        self._remember("squares")
        with self.watch.stage("independent signs"):
            now.choose_sign(squares.colour_axis(self.public))
        first = self.history[0][1]
        same = np.count_nonzero((first > 0) == (_interleaved(now.image[: len(first)]) > 0))
        first *= np.float32(1 if 2 * same >= first.size else -1)
        self._remember("independent signs")
        if self.settings.repair:
            with self.watch.stage("sign repair"):
                now.repair_signs()
            self._remember("sign repair")
        now.mixtures = everything
        return now

    def _certain(self, mixtures: Mixtures) -> Mixtures:
        """The rows of which every coefficient is published, if there are enough of them; otherwise all rows."""
        known = self.now.known
        certain = known.present.sum(axis=1) == known.per_row
        if known.share is None or certain.sum() < _CERTAIN * known.n_images:
            return mixtures
        held = np.where(certain[:, None], mixtures.assignment, -1)
        return Mixtures(held, mixtures.coefficient, mixtures.n_images)

    def refine(self) -> Estimates:
        """Stage 4: rounds of signs, codes and images, each encryption on its own."""
        rounds = self.settings.rounds + (0 if self.shares else self.settings.shared_rounds)
        for number in range(rounds):
            self._clean()
            self._round(second=number > 0, restart=not self.shares and 0 < number < rounds - 2)
            with self.watch.stage("least squares"):
                self.now.measure_residuals()
            if self.settings.repair and self.masked:
                with self.watch.stage("sign repair"):
                    self.now.repair_signs()
            self._remember(f"round {number + 1}")
            if self._settled():
                break
        return self.now

    def share_public_images(self) -> Estimates:
        """Stage 5: rounds in which encryptions that share public images inform each other."""
        now, rounds = self.now, self.settings.shared_rounds if self.shares else 0
        number_of, in_epochs = now.known.n_images, now.known.epochs
        whole = number_of if in_epochs and number_of <= _TOGETHER else 1
        blocks = shared_public.parts(len(now.size), _TOGETHER if whole == 1 else _TOGETHER_IN_EPOCHS, whole)
        # with one public image per row, the rows that share it are in different epochs
        enough = now.size[0].size >= _VALUES_PER_ROW * number_of
        epoch = number_of if in_epochs and now.n_public > 1 and enough else None
        for number in range(rounds):
            self._clean()
            with self.watch.stage("shared public images"):
                now.learn_shared_public(epoch, blocks)
            self._round(second=True, restart=0 < number < rounds - 2)
            self._remember(f"shared public images {number + 1}")
            if self._settled():
                break
        return now

    @property
    def shares(self) -> bool:
        """Whether encryptions can share public images."""
        return self.now.n_public > 0

    def _round(self, second: bool, restart: bool) -> None:
        now = self.now
        if self.masked:
            with self.watch.stage("coupled signs"):
                now.infer_signs(_RIDGE, self.settings.coupled)
            if second and self.settings.second_opinion and now.known.views is None:
                with self.watch.stage("second opinion"):
                    now.take_second_opinion(self.energies, self.settings.coupled)
        with self.watch.stage("codes"):
            self.codes = now.find_codes()
            if not now.known.epochs:
                now.known = now.known.with_epochs(now.mixtures.assignment)
                self.energies = replace(self.energies, known=replace(self.energies.known, epochs=now.known.epochs))
        if restart and self.masked and self.settings.restarts and now.known.views is None:
            with self.watch.stage("restarts"):
                now.restart_images(self.codes, self.age)
        if self.masked and now.known.views is not None and now.weights is None:
            with self.watch.stage("messages"):
                now.pass_messages(now.canvas)
            with self.watch.stage("coupled signs"):
                now.infer_signs(_RIDGE, self.settings.coupled)
        with self.watch.stage("least squares"):
            now.fit_images()

    def _clean(self) -> None:
        if self.uncertain:
            with self.watch.stage("cleaning"):
                self.now.clean()
            self.cleaned += 1

    def _settled(self) -> bool:
        """Whether the last round changed the images by less than half of one of 256 levels (root mean square)."""
        change = self.history[-1][1] - self.history[-2][1]
        square = mean_square(change.reshape(len(change), -1))
        return math.fsum(square) <= len(square) * _SETTLED**2

    def _remember(self, name: str) -> None:
        self.history.append((name, _interleaved(self.now.image[: self.now.known.n_images])))

    def result(self) -> UnmaskResult:
        """What was found."""
        now, confidence = self.now, self.codes.margin()
        with self.watch.stage("second opinion"):
            by_edges = edges.margins(self.energies, now.mixtures) if now.known.views is None else None
        stages = [name for name, _ in self.history]
        views = view_table("none") if now.known.views is None else now.known.views
        return UnmaskResult(
            recovered=_interleaved(now.image[: now.known.n_images]),
            assignment=image_of(now.mixtures.assignment, now.known.n_images),
            view=views[np.maximum(now.mixtures.assignment, 0) // now.known.n_images].astype(np.int8),
            coefficient=now.mixtures.coefficient.astype(np.float32),
            confidence=confidence,
            signed=_interleaved(now.signed),
            predicted=_interleaved(now.predict(slice(None))),
            variance=(now.scale * now.moments.variance).astype(np.float32),
            history=[images for _, images in self.history],
            stages=stages,
            seconds=self.watch.seconds,
            details={
                "stages": stages,
                "epochs": now.known.epochs,
                "cleaned_rounds": self.cleaned,
                "estimated_slot_accuracy": share_right(now.known, confidence, by_edges),
            },
        )


def solve(
    release: Release,
    public: npt.NDArray[np.uint8],
    *,
    settings: Settings | None = None,
    progress: Callable[[str], None] | None = None,
) -> UnmaskResult:
    """Recover the private images of a release; the arguments are those of `Unmask`."""
    attack = Unmask(release, public, settings=settings, progress=progress)
    attack.find_edges()
    attack.find_first_codes()
    attack.find_first_images()
    attack.refine()
    attack.share_public_images()
    return attack.result()


def decrypt(result: UnmaskResult) -> Float32:
    """For each encryption, the private image with the greatest confidence, on the 8-bit grid, (n, h, w, 3)."""
    strength = result.confidence * result.coefficient
    place = np.argmax(strength, axis=1)
    row = np.arange(len(place))
    image = pixel_bytes(result.recovered)
    return pixel_values(apply_views(image[result.assignment[row, place]], result.view[row, place]))


def answer(result: UnmaskResult) -> AttackResult:
    """For each encryption its surest private image."""
    return AttackResult(
        method="unmask",
        recovered=result.recovered,
        assignment=result.assignment,
        decryption=decrypt(result),
        complexity="O(E)",
        seconds=result.seconds,
        details=result.details,
        extras={"signed": result.signed},
        coefficient=result.coefficient,
    )


def run(release: Release, public: npt.NDArray[np.uint8]) -> AttackResult:
    """Attack a release with `solve`; see :mod:`..registry`."""
    with progress_bar(desc="unmask", unit="stage") as bar:

        def show(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update(1)

        return answer(solve(release, public, progress=show))
