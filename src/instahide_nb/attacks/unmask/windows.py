"""The linear model of augmented images, of which each row contains a window.

The *canvas* of an image is the image with a black border of 4 pixels. View (dy, dx, flip) is the window at dy, dx of
the canvas, mirrored if flip is 1. Row i is ``x_i = sum_s a_is V_is P_is + rest``. Candidate v N + j is view v of image
j.

Without signs, images follow by generalised approximate message passing (Rangan, ISIT 2011; for magnitudes Schniter and
Rangan, IEEE Trans. Signal Processing 63, 2015). Rows with an uncertain prediction say little about signs. The sign of
the border is known, and certainty spreads from it through all images. Sums run in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from instahide_nb.attacks.mixtures import Mixtures, Regression, Weights, weighted
from instahide_nb.core.arrays import Float, Float32, Int64
from instahide_nb.core.kernels import kernel
from instahide_nb.core.threads import in_blocks
from instahide_nb.scheme.views import PAD, all_views

_COLUMNS = 256  # pixels at a time
_STEPS = 10  # of conjugate gradients
_PRIOR = np.float32(4)  # precision of a pixel before anything is known
_FIRST_ROUNDS, _ROUNDS = 20, 10  # of messages, from nothing and from images
_FRESH, _HALF = np.float32(0.7), np.float32(0.5)  # of messages and of images, in each round


EDGE_PLANES = np.array([0, 1, 3, 2, 4, 5, 6])
"""Order of the planes of edge energies after mirroring: the two diagonals change places."""


def view_table(augment: str) -> Int64:
    """All views of an augmentation (V, 3), the image as it is first."""
    views = all_views(augment).astype(np.int64)
    return views[np.argsort((views != (PAD, PAD, 0)).any(axis=1), kind="stable")]


def image_of(assignment: Int64, n_images: int) -> Int64:
    """The images of candidates, -1 where unknown."""
    return np.where(assignment < 0, -1, assignment % n_images)


def both_ways(mixtures: Mixtures) -> Mixtures:
    """The mixtures of all rows, then those of the mirrored rows."""
    held, n = mixtures.assignment, mixtures.n_images
    turned = np.where(held < 0, -1, (held + n // 2) % n)
    share = np.concatenate([mixtures.coefficient, mixtures.coefficient])
    return Mixtures(np.concatenate([held, turned]), share, n)


@kernel
def _gather(
    first: int, last: int, held: Int64, share: Float32, views: Int64, planes: Int64, canvas: Float32, out: Float32
) -> None:
    _, channels, h, w = out.shape
    for i in range(first, last):
        for s in range(held.shape[1]):
            if held[i, s] >= 0:
                dy, dx, flip = views[held[i, s] // len(canvas)]
                by, image = share[i, s], canvas[held[i, s] % len(canvas)]
                for c in range(channels):
                    source = image[planes[c] if flip else c]
                    for y in range(h):
                        for x in range(w):
                            out[i, c, y, x] += by * source[y + dy, dx + (w - 1 - x if flip else x)]


@kernel
def _scatter(
    first: int, last: int, rows: Float32, held: Int64, share: Float32, views: Int64, planes: Int64, out: Float32
) -> None:
    n, _, h, w = rows.shape
    for c in range(first, last):
        for i in range(n):
            for s in range(held.shape[1]):
                if held[i, s] >= 0:
                    dy, dx, flip = views[held[i, s] // len(out)]
                    by, source = share[i, s], rows[i, planes[c] if flip else c]
                    target = out[held[i, s] % len(out), c]
                    for y in range(h):
                        for x in range(w):
                            target[y + dy, dx + (w - 1 - x if flip else x)] += by * source[y, x]


@kernel
def _dot(a: Float32, b: Float32) -> float:
    total = 0.0
    for i in range(a.size):
        total += float(a.flat[i]) * float(b.flat[i])
    return total


@dataclass(frozen=True)
class Windows:
    """The windows of rows."""

    views: Int64  # (V, 3)
    planes: Int64  # order of the planes after mirroring

    def mix(self, canvas: Float, held: Int64, share: Float, shape: tuple[int, ...]) -> Float32:
        """``sum_s a_is V_is P_is`` (n, planes, *shape) for canvases (N, planes, H, W), candidates and shares (n, p)."""
        out = np.zeros((len(held), canvas.shape[1], *shape), np.float32)
        in_blocks(_gather, len(out), held, share.astype(np.float32), self.views, self.planes, canvas, out)
        return out

    def spread(self, rows: Float32, held: Int64, share: Float, like: Float32) -> Float32:
        """The transpose of `mix`: canvases shaped `like` those."""
        out, by = np.zeros_like(like), share.astype(np.float32)
        in_blocks(_scatter, out.shape[1], rows, held, by, self.views, self.planes, out, block=1)
        return out

    def candidates(self, canvas: Float32, shape: tuple[int, ...]) -> Float32:
        """All views of canvases (N, planes, H, W), in the order of the candidates."""
        held = np.arange(len(self.views) * len(canvas))[:, None]
        return self.mix(canvas, held, np.ones(held.shape), shape)

    def fit(
        self,
        rows: Float32,
        mixtures: Mixtures,
        weight: Weights | Callable[[Float32], Float32],
        centre: Float32,
        start: Float32,
        ridge: float,
    ) -> Float32:
        """Canvases by least squares from rows (n, planes, h, w), by conjugate gradients from `start`.

        `ridge` is the weight of the pull to `centre`, as a share of the mean diagonal of the normal matrix. Pixels that
        are infinite in `centre` are left as they are. `weight` may be a function that multiplies columns of rows by Q.
        """
        held, share, shape = mixtures.assignment, mixtures.coefficient, rows.shape[2:]
        free = np.isfinite(centre)

        def back(table: Float32) -> Float32:
            flat = table.reshape(len(table), -1)
            out = np.empty_like(flat)

            def columns(low: int, high: int) -> None:
                some = np.ascontiguousarray(flat[:, low:high])
                out[:, low:high] = weight(some) if callable(weight) else weighted(weight, some)

            in_blocks(columns, flat.shape[1], block=_COLUMNS)
            return self.spread(out.reshape(table.shape), held, share, start) * free

        own: Float = 1 / weight.scale if isinstance(weight, Regression) else np.ones(len(rows))
        if isinstance(weight, np.ndarray):
            own = weight if weight.ndim == 1 else np.einsum("eii->ei", weight).ravel()
        every = np.broadcast_to(own.astype(np.float32)[:, None, None, None], rows.shape)
        diagonal = self.spread(every, held, share * share, start)
        pull = np.float32(ridge * float(diagonal.astype(np.float64).mean(axis=(2, 3)).mean()) + 1e-12)
        diagonal += pull
        found = start.copy()
        left = back(rows - self.mix(start, held, share, shape)) + pull * np.where(free, centre - start, 0)
        scaled = left / diagonal
        direction, length = scaled, _dot(left, scaled)
        for _ in range(_STEPS):
            if not length > 1e-9:
                break
            image = back(self.mix(direction, held, share, shape)) + pull * direction
            by = np.float32(length / _dot(direction, image))
            found += by * direction
            left = left - by * image
            scaled = left / diagonal
            before, length = length, _dot(left, scaled)
            direction = scaled + np.float32(length / before) * direction
        return found

    def pass_messages(
        self, size: Float32, mixtures: Mixtures, noise: Float32, mean: Float32, start: Float32 | None = None
    ) -> Float32:
        """Canvases (N, channels, H, W) from absolute values (n, channels, h, w).

        `noise` (n,) is the variance of the residuals, `mean` (channels,) the mean public colour. Rounds begin at the
        canvases `start`, or with nothing but the border.
        """
        held, share, shape = mixtures.assignment, mixtures.coefficient.astype(np.float32), size.shape[2:]
        prior = np.broadcast_to(mean[:, None, None], (mixtures.n_images // len(self.views), *size.shape[1:]))
        image, rest = on_canvas(prior) if start is None else start, mixtures.rest.astype(np.float32)
        base, noise = rest[:, None, None, None] * mean[:, None, None], noise[:, None, None, None]
        spread = on_canvas(prior * 0 + 1 / _PRIOR, 0)
        prior, free = on_canvas(prior), spread > 0
        message = np.zeros_like(size)
        for turn in range(_FIRST_ROUNDS if start is None else _ROUNDS):
            doubt = self.mix(spread, held, share * share, shape)
            made = self.mix(image, held, share, shape) + base - doubt * message
            inverse = 1 / (doubt + noise)
            u = size * made * inverse
            sign = u / np.sqrt(1 + u * u)
            message += (_FRESH if turn else np.float32(1)) * ((size * sign - made) * inverse - message)
            curve = (1 - size * size * (1 - sign * sign) * inverse) * inverse
            precision = np.maximum(self.spread(curve, held, share * share, image), 1)
            variance = 1 / (precision + _PRIOR)
            fresh = precision * image + self.spread(message, held, share, image) + _PRIOR * prior
            image = image + np.where(free, _HALF * (np.clip(variance * fresh, -1, 1) - image), np.float32(0))
            spread += np.where(free, _HALF * (variance - spread), np.float32(0))
        return image


def on_canvas(image: Float32, border: float = -1) -> Float32:
    """Images (N, channels, h, w) with their border, black by default."""
    return np.pad(image, ((0, 0), (0, 0), (PAD, PAD), (PAD, PAD)), constant_values=np.float32(border))
