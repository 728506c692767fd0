"""The `unmask` attack: private images from masked mixtures, without a network and without the generator's bug.

Energies of edges find the encryptions of one image (`edges`, `matching`); squares give first images up to one sign,
which colours decide (`squares`). Then come rounds: infer the masks (`signs`), assign images anew (`matching`), solve
for the images (:mod:`..mixtures`), flip pixels of the wrong sign (`signs`); and more rounds in which encryptions that
share public images inform each other (`shared_public`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from instahide_nb.attacks.mixtures import Fit, Mixtures, Weights, fit, influence, mean_square, predictions
from instahide_nb.attacks.result import AttackResult, on_the_grid
from instahide_nb.attacks.unmask import edges, matching, shared_public, signs, squares
from instahide_nb.attacks.unmask.matching import Slots, read_slots
from instahide_nb.attacks.unmask.smoothness import TAPS, Moments, Smoothness, public_moments, smoothness
from instahide_nb.challenge.release import Release
from instahide_nb.core.errors import InputError
from instahide_nb.core.progress import Stopwatch
from instahide_nb.core.progress import progress as progress_bar

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_RIDGE = 0.3  # white noise added to the public covariance, as a share of a pixel's variance
_REPAIR_RIDGE = 0.1
_SHARED_RIDGE = 0.05  # of the whitening under which residuals are compared
_PULL = 1e-3  # of images to the mean public image, as a share of the mean diagonal of the normal matrix
_MORE_ROUNDS = 2  # where no public images are shared
_SMALLEST = np.float32(0.003)  # covariance of a residual, in units of the public covariance
_VALUES_PER_ROW = (
    15  # of an image, for each row of an epoch: fewer make the covariance of an epoch too uncertain
)
_TOGETHER = 5000  # rows compared with each other where they are in no epochs
_TOGETHER_IN_EPOCHS = 2000  # and in whole epochs
_ROWS = 1000  # encryptions at a time


@dataclass(frozen=True)
class Settings:
    """What the attack does; the defaults are the whole attack, an ablation switches parts off.

    Attributes
    ----------
    rounds : int
        Rounds of signs, images and assignment after the first images, each encryption on its own; two more at
        k = 2, where no public images are shared.
    shared_rounds : int
        Further rounds in which encryptions that share public images inform each other.
    coupled, repair, epochs : bool
        Infer the signs of an encryption together; flip pixels of the wrong sign; use the epochs, if the rows are in
        epochs, in assignment and, from k = 4 on and up to 204 private images of 32 x 32, for shared public images.
    whitened, left_out : bool
        Whiten the edge energies; compare each encryption with images as they would be without it.
    """

    rounds: int = 2
    shared_rounds: int = 6
    coupled: bool = True
    repair: bool = True
    epochs: bool = True
    whitened: bool = True
    left_out: bool = True


@dataclass(frozen=True)
class UnmaskResult:
    """Everything that `solve` found.

    Attributes
    ----------
    recovered : float32 (N, h, w, 3)
        Private images in [-1, 1], ordered by class.
    assignment : int64 (n, 2)
        The two private images of each encryption, that of the larger coefficient first.
    coefficient : float32 (n, 2)
    confidence : float32 (n, 2)
        Log-likelihood of each slot's image above the next best.
    signed : float32 (n, h, w, 3)
        Estimate of each encryption with its mask lifted: ``|x| E[sign]``.
    predicted : float32 (n, h, w, 3)
        Mean prediction of each encryption.
    variance : float32 (n,)
        Variance of the encryption about its prediction.
    history : list of float32 (N, h, w, 3)
        The images after each stage, in order of `stages`.
    stages : list of str
    seconds : dict
    details : dict
        What the attack knows of its own success without any secret, as JSON can hold it.
    """

    recovered: Float32
    assignment: Int64
    coefficient: Float32
    confidence: Float32
    signed: Float32
    predicted: Float32
    variance: Float32
    history: list[Float32] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    details: dict[str, object] = field(default_factory=dict)


def _planar(image: Float32) -> Float32:
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def _interleaved(image: Float32) -> Float32:
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


@dataclass
class Estimates:
    """What is believed so far; images and encryptions are planar (channels, h, w).

    Attributes
    ----------
    moments : Moments
        Of public images.
    size : float32 (n, channels, h, w)
        Absolute values of the encryptions.
    mixtures : Mixtures
        Images of each encryption and their coefficients; -1 while unknown.
    scale : float32 (n,)
        Covariance of each residual, in units of the public covariance.
    image : float32 (images, channels, h, w)
    signed : float32 (n, channels, h, w)
        Encryptions with their mask lifted.
    weights : Weights or None
        What rows say about each other's residuals; None while each counts by its own scale.
    expected : float32 (n, channels, h, w) or None
        Residuals as rows that share public images predict them.
    fitted : Fit or None
        What the images were fitted to.
    """

    moments: Moments
    size: Float32
    mixtures: Mixtures
    scale: Float32
    image: Float32
    signed: Float32
    weights: Weights | None = None
    expected: Float32 | None = None
    fitted: Fit | None = None

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

    def infer_signs(self, ridge: float, coupled: bool) -> None:
        """Lift the masks: `signed`."""
        local, temperature = self.smoothness(ridge), signs.TEMPERATURE if coupled else signs.TEMPERATURE[:0]
        for rows in self.blocks():
            self.signed[rows] = signs.lift_masks(
                self.size[rows],
                self.predict(rows),
                self.scale[rows],
                self.moments.variance,
                local,
                temperature,
            )

    def fit_images(self) -> None:
        """Solve for the private images by (generalised) least squares: `image`, `fitted`."""
        weights = self.weights
        if weights is None:
            known = (self.mixtures.assignment >= 0).all(axis=1)
            weights = np.where(known, np.float32(1) / self.scale, 0)
        flat = self.signed.reshape(len(self.signed), -1)
        image = np.clip(fit(flat, self.mixtures, weights, self.mean, _PULL), -1.0, 1.0)
        self.image = image.astype(np.float32).reshape(-1, *self.size.shape[1:])
        self.fitted = Fit(self.image, self.mixtures, influence(self.mixtures, weights, _PULL))

    def measure_residuals(self) -> None:
        """Estimate the covariance of each residual, half from the coefficients and half from the residual: `scale`.

        An encryption with a wrong image has a larger one, and counts for less in the next round.
        """
        half, left = np.float32(0.5), np.empty(len(self.size))
        for rows in self.blocks():
            left[rows] = mean_square(self.residual(rows).reshape(len(left[rows]), -1))
        measured = (left / float(self.moments.variance)).astype(np.float32)
        self.scale = np.maximum(half * prior_scale(self.mixtures) + half * measured, _SMALLEST)

    def repair_signs(self) -> None:
        """Flip pixels of the images that have the wrong sign: `image`."""
        local, flat = self.smoothness(_REPAIR_RIDGE), self.size.reshape(len(self.size), -1)
        variance = self.scale * self.moments.variance
        for _ in range(2):
            image = self.image.reshape(len(self.image), -1)
            gain = signs.flip_gain(flat, image, self.mixtures, variance, self.mean)
            gain = gain.reshape(self.image.shape)
            self.image = signs.repair_signs(self.image, gain, self.moments.mean, local)

    def assign(self, slots: Slots, left_out: bool) -> matching.Matching:
        """Assign images to encryptions by the matched filter: `mixtures`."""
        local, centre = self.smoothness(_RIDGE), self.moments.mean[:, None, None]

        def rows(part: slice | Int64) -> Float32:
            return self.signed[part] - centre - (0 if self.expected is None else self.expected[part])

        compared = left_out and self.fitted is not None
        square = matching.square_lengths(rows, len(self.size), local) if compared else None
        found = matching.match(rows, self.image - centre, self.scale, local, slots, self.fitted, square)
        self.mixtures = Mixtures(found.assignment, found.coefficient, slots.n_images)
        return found

    def learn_shared_public(self, epoch: int | None, blocks: list[slice]) -> None:
        """Learn from the residuals which rows share public images: `weights`, `expected`, `scale`.

        Parameters
        ----------
        epoch : int or None
            Rows of an epoch, where epochs say who shares; otherwise rows are compared within `blocks`.
        blocks : list of slice
        """
        expected = np.empty_like(self.size) if self.expected is None else self.expected
        self.expected, local = None, self.smoothness(_SHARED_RIDGE)
        if epoch is not None:
            self.weights, scale = shared_public.by_epoch(self.residual, epoch, local, expected)
        else:
            held = self.mixtures.assignment
            self.weights, scale = shared_public.by_correlation(self.residual, held, blocks, local, expected)
        self.expected, self.scale = expected, np.maximum(scale, _SMALLEST)

    def choose_sign(self, axis: Float64) -> float:
        """A few rounds that favour neither sign, then the sign under which mean colours are a photograph's: `image`.

        The mean public image is left out of these rounds, so that they would give the negatives from the negatives.
        The likelihood of the encryptions cannot decide: it takes the mean of the attacker's photographs for that of
        the challenge's, and is certain of the wrong sign where the two differ.

        Parameters
        ----------
        axis : float64 (channels,)
            From `squares.colour_axis`.

        Returns
        -------
        float
            Share of private images that are, each by itself, rather a photograph than a negative.
        """
        known = self.moments
        self.moments = replace(known, mean=np.zeros_like(known.mean))
        for _ in range(3):
            self.infer_signs(0.0, coupled=False)
            self.fit_images()
        used = (self.mixtures.assignment >= 0).all(axis=1)
        rest = math.fsum(self.mixtures.rest[used].tolist())
        left = np.concatenate([_mean_colours(self.residual(rows)) for rows in self.blocks()])[used]
        public = np.array([math.fsum(column) for column in left.T]) / max(rest, 1e-9)
        votes = squares.rather_photograph(_mean_colours(self.image), axis)
        total = math.fsum(votes) / len(votes) + float(squares.rather_photograph(public, axis))
        sign = np.float32(1 if total >= 0 else -1)
        self.moments, self.image = known, sign * self.image
        return float(np.count_nonzero(votes * sign > 0) / len(votes))


def _mean_colours(image: Float32) -> Float64:
    """Mean of each channel of planar images, float64 (n, channels)."""
    pixels = np.ascontiguousarray(image.reshape(*image.shape[:2], -1).transpose(2, 0, 1), np.float64)
    mean: Float64 = pixels.sum(axis=0) / len(pixels)
    return mean


def prior_scale(mixtures: Mixtures) -> Float32:
    """Expected covariance of the residual of encryptions, in units of the public covariance.

    The rest of the coefficients is shared by k - 2 public images; 0.4 is about the sum of squares of the shares of
    four of them.
    """
    rest = np.float32(1) - mixtures.coefficient.sum(axis=1)
    return (rest * rest * np.float32(0.4) + np.float32(0.005)).astype(np.float32)


def _check(release: Release, public: npt.NDArray[np.uint8]) -> None:
    info = release.info
    if info.scheme != "cross":
        raise InputError(
            f"method: unmask attacks cross-dataset encryptions; this release is of the scheme {info.scheme!r}"
        )
    height, width = release.encryption.shape[1:3]
    if min(height, width) < TAPS:
        raise InputError(f"encryption.npy: images of {height}x{width} are too small for unmask; 7x7 at least")
    if public.ndim != 4 or public.shape[3] != release.encryption.shape[3] or public.dtype != np.uint8:
        raise InputError(
            f"public_source: unmask needs uint8 images (m, h, w, 3), not {public.dtype} {public.shape}"
        )
    if len(public) < 50:
        raise InputError(
            f"n_public: {len(public)} public images are too few for unmask to learn from; 50 at least"
        )
    if info.n_private < 2:
        raise InputError(
            f"release.json: n_private is {info.n_private}; unmask needs two private images or more"
        )


def solve(
    release: Release,
    public: npt.NDArray[np.uint8],
    *,
    settings: Settings | None = None,
    progress: Callable[[str], None] | None = None,
) -> UnmaskResult:
    """Recover the private images of a cross-dataset release.

    Parameters
    ----------
    release : Release
        Encryptions and labels; labels must carry coefficients.
    public : uint8 (m, h, w, 3)
        The attacker's own public images: their mean colours and their autocovariance are used.
    settings : Settings, optional
    progress : callable, optional
        Called with the name of each stage as it begins.

    Raises
    ------
    InputError
        When the release is of another scheme, or its labels carry no coefficients.
    """
    _check(release, public)
    settings = settings or Settings()
    watch = Stopwatch(report=progress)
    history: list[Float32] = []
    stages: list[str] = []

    def remember(name: str) -> None:
        history.append(_interleaved(now.image))
        stages.append(name)

    encryption = np.ascontiguousarray(release.encryption, np.float32)
    slots = read_slots(release.label, release.info.n_private)
    if not settings.epochs:
        slots = replace(slots, epoch=np.full_like(slots.epoch, -1))
    with watch.stage("energy"):
        energies = edges.edges_of(encryption, slots, settings.whitened, settings.left_out)
        assignment = edges.first_assignment(energies).assignment
    with watch.stage("public model"):
        moments = public_moments(public)
    unshared = Mixtures(np.where(slots.shared[:, None], -1, assignment), slots.coefficient, slots.n_images)
    with watch.stage("spectral"):
        image = _planar(squares.first_images(encryption, unshared))
    size = np.abs(_planar(encryption))
    now = Estimates(moments, size, unshared, prior_scale(unshared), image, np.empty_like(size))
    remember("spectral")
    with watch.stage("independent signs"):
        photographs = now.choose_sign(squares.colour_axis(public))
    same = np.count_nonzero((history[0] > 0) == (_interleaved(now.image) > 0))
    history[0] *= np.float32(1 if 2 * same >= history[0].size else -1)
    remember("independent signs")
    if settings.repair:
        with watch.stage("sign repair"):
            now.repair_signs()
        remember("sign repair")
    now.mixtures = Mixtures(assignment, slots.coefficient, slots.n_images)
    # At k = 2 there is no public image to share, and residuals are no more than errors of the fit. At k = 3 each
    # public image is in one row of an epoch, and the other rows that hold it are in other epochs.
    shares = release.info.k > 2
    enough = encryption[0].size >= _VALUES_PER_ROW * slots.n_images
    in_epochs = bool(slots.epoch[0] >= 0)
    for number in range(settings.rounds if shares else settings.rounds + _MORE_ROUNDS):
        with watch.stage("coupled signs"):
            now.infer_signs(_RIDGE, settings.coupled)
        with watch.stage("assignment"):
            found = now.assign(slots, settings.left_out)
        with watch.stage("least squares"):
            now.fit_images()
            now.measure_residuals()
        if settings.repair:
            with watch.stage("sign repair"):
                now.repair_signs()
        remember(f"round {number + 1}")
    whole = slots.n_images if in_epochs and slots.n_images <= _TOGETHER else 1
    blocks = shared_public.parts(len(encryption), _TOGETHER if whole == 1 else _TOGETHER_IN_EPOCHS, whole)
    epoch = slots.n_images if in_epochs and release.info.k > 3 and enough else None
    for number in range(settings.shared_rounds if shares else 0):
        with watch.stage("shared public images"):
            now.learn_shared_public(epoch, blocks)
        with watch.stage("coupled signs"):
            now.infer_signs(_RIDGE, settings.coupled)
        with watch.stage("assignment"):
            found = now.assign(slots, settings.left_out)
        with watch.stage("least squares"):
            now.fit_images()
        remember(f"shared public images {number + 1}")
    confidence = found.margin(slots)
    u = confidence / np.float32(2)
    correct = np.float32(0.5) * (np.float32(1) + u / np.sqrt(np.float32(1) + u * u))
    with watch.stage("second opinion"):
        agreement = edges.agreement(energies, now.mixtures.assignment)
    return UnmaskResult(
        recovered=_interleaved(now.image),
        assignment=found.assignment,
        coefficient=found.coefficient,
        confidence=confidence,
        signed=_interleaved(now.signed),
        predicted=_interleaved(now.predict(slice(None))),
        variance=(now.scale * now.moments.variance).astype(np.float32),
        history=history,
        stages=stages,
        seconds=watch.seconds,
        details={
            "stages": stages,
            "images_per_class": np.diff(slots.start).tolist(),
            "epochs": in_epochs,
            "shared_class_encryptions": int(slots.shared.sum()),
            "estimated_slot_accuracy": round(float(correct.astype(np.float64).sum() / correct.size), 4),
            "rather_photographs_than_negatives": photographs,
            "agreement_with_textures": agreement,
        },
    )


def decrypt(result: UnmaskResult) -> Float32:
    """For each encryption the private image that the attack is surest of, on the 8-bit grid, (n, h, w, 3)."""
    strength = result.confidence * result.coefficient
    slot = np.argmax(strength, axis=1)
    chosen = np.take_along_axis(result.assignment, slot[:, None], axis=1)[:, 0]
    return on_the_grid(result.recovered)[chosen]


def run(release: Release, public: npt.NDArray[np.uint8]) -> AttackResult:
    """Attack a release with `solve` and give for each encryption its surest private image; see :mod:`..registry`."""
    settings = Settings()
    with progress_bar(
        total=6 + 4 * (settings.rounds + settings.shared_rounds), desc="unmask", unit="stage"
    ) as bar:

        def show(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update(1)

        result = solve(release, public, settings=settings, progress=show)
        bar.total = bar.n  # with k = 2 there are fewer stages
    return AttackResult(
        method="unmask",
        recovered=result.recovered,
        assignment=result.assignment,
        decryption=decrypt(result),
        complexity="O(E)",
        seconds=result.seconds,
        details=result.details,
        extras={"signed": result.signed, "history": result.history},
    )
