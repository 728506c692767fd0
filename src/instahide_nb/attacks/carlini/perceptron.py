"""A network of one hidden layer, small enough to be trained in plain loops: the same bits on any machine.

Rectified linear units, mean squared error and Adam (Kingma and Ba, ICLR 2015) need only ``+ - * / sqrt``. A
deep-learning library would sum in an order that depends on the processor, and its weights could not be made again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from instahide_nb.core.threads import in_blocks

__all__ = ["Perceptron", "apply", "as_table", "from_table", "train"]

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_BATCH = 256


@dataclass(frozen=True)
class Perceptron:
    """Weights of ``inner.T x + inner_bias``, rectified, then ``outer.T h + outer_bias``.

    Attributes
    ----------
    inner : float32 (inputs, hidden)
    inner_bias : float32 (hidden,)
    outer : float32 (outputs, hidden)
    outer_bias : float32 (outputs,)
    """

    inner: Float32
    inner_bias: Float32
    outer: Float32
    outer_bias: Float32


@numba.njit(cache=True, nogil=True)
def _hidden(x: Float32, inner: Float32, inner_bias: Float32, out: Float32) -> None:
    hidden = inner.shape[1]
    for h in range(hidden):
        out[h] = inner_bias[h]
    for f in range(inner.shape[0]):
        v, weight = x[f], inner[f]
        for h in range(hidden):
            out[h] += v * weight[h]
    for h in range(hidden):
        out[h] = max(out[h], np.float32(0))


@numba.njit(cache=True, nogil=True)
def _output(hidden: Float32, outer: Float32, outer_bias: Float32, out: Float32) -> None:
    for o in range(outer.shape[0]):
        total = outer_bias[o]
        for h in range(hidden.shape[0]):
            total += hidden[h] * outer[o, h]
        out[o] = total


@numba.njit(cache=True, nogil=True)
def _apply(
    low: int,
    high: int,
    x: Float32,
    inner: Float32,
    inner_bias: Float32,
    outer: Float32,
    outer_bias: Float32,
    out: Float32,
) -> None:
    hidden = np.empty(inner.shape[1], np.float32)
    for s in range(low, high):
        _hidden(x[s], inner, inner_bias, hidden)
        _output(hidden, outer, outer_bias, out[s])


@numba.njit(cache=True, nogil=True)
def _adam(
    weight: Float32, gradient: Float32, first: Float32, second: Float32, step: float, spread: float
) -> None:
    one, tiny = np.float32(1), np.float32(1e-8)
    keep1, keep2, rate, wide = np.float32(0.9), np.float32(0.999), np.float32(step), np.float32(spread)
    for j in range(weight.shape[0]):
        g = gradient[j]
        first[j] = keep1 * first[j] + (one - keep1) * g
        second[j] = keep2 * second[j] + (one - keep2) * g * g
        weight[j] -= rate * first[j] / (np.sqrt(second[j] * wide) + tiny)


@numba.njit(cache=True, nogil=True)
def _train(
    x: Float32,
    y: Float32,
    order: Int64,
    batch: int,
    rate: float,
    inner: Float32,
    inner_bias: Float32,
    outer: Float32,
    outer_bias: Float32,
) -> None:
    inputs, units = inner.shape
    outputs = outer.shape[0]
    d_inner, d_inner_bias = np.zeros_like(inner), np.zeros_like(inner_bias)
    d_outer, d_outer_bias = np.zeros_like(outer), np.zeros_like(outer_bias)
    m1, v1 = np.zeros(inner.size, np.float32), np.zeros(inner.size, np.float32)
    m2, v2 = np.zeros(units, np.float32), np.zeros(units, np.float32)
    m3, v3 = np.zeros(outer.size, np.float32), np.zeros(outer.size, np.float32)
    m4, v4 = np.zeros(outputs, np.float32), np.zeros(outputs, np.float32)
    hidden, back = np.empty(units, np.float32), np.empty(units, np.float32)
    made = np.empty(outputs, np.float32)
    zero, share = np.float32(0), np.float32(2.0 / batch)
    power1, power2 = 1.0, 1.0
    steps = order.shape[0] // batch
    for t in range(steps):
        d_inner[:] = zero
        d_inner_bias[:] = zero
        d_outer[:] = zero
        d_outer_bias[:] = zero
        for place in range(t * batch, (t + 1) * batch):
            s = order[place]
            _hidden(x[s], inner, inner_bias, hidden)
            _output(hidden, outer, outer_bias, made)
            back[:] = zero
            for o in range(outputs):
                e = share * (made[o] - y[s, o])
                d_outer_bias[o] += e
                weight, gradient = outer[o], d_outer[o]
                for h in range(units):
                    gradient[h] += e * hidden[h]
                    back[h] += e * weight[h]
            for h in range(units):
                if hidden[h] <= zero:
                    back[h] = zero
                d_inner_bias[h] += back[h]
            for f in range(inputs):
                v, slope = x[s, f], d_inner[f]
                for h in range(units):
                    slope[h] += v * back[h]
        power1 *= 0.9
        power2 *= 0.999
        left = (steps - t) / steps  # the step falls in a straight line to zero
        step, spread = rate * left / (1.0 - power1), 1.0 / (1.0 - power2)
        _adam(inner.reshape(-1), d_inner.reshape(-1), m1, v1, step, spread)
        _adam(inner_bias, d_inner_bias, m2, v2, step, spread)
        _adam(outer.reshape(-1), d_outer.reshape(-1), m3, v3, step, spread)
        _adam(outer_bias, d_outer_bias, m4, v4, step, spread)


def train(x: Float32, y: Float32, hidden: int, *, epochs: int, rate: float, seed: int = 0) -> Perceptron:
    """Train a network to turn `x` into `y` in the sense of least squares.

    Parameters
    ----------
    x : float32 (samples, inputs)
        Of order one: the first weights are uniform in +-1/sqrt(inputs).
    y : float32 (samples, outputs)
    hidden : int
        Hidden units.
    epochs : int
        How often each sample is seen, in batches of 256 and in a new order each time.
    rate : float
        Adam's first step; it falls to zero in a straight line.
    seed : int
        Of the first weights and the orders (PCG64).

    Returns
    -------
    Perceptron

    Examples
    --------
    >>> x = np.linspace(-1, 1, 512, dtype=np.float32)[:, None]
    >>> network = train(x, np.abs(x), 8, epochs=200, rate=0.02)
    >>> bool(np.abs(apply(network, x) - np.abs(x)).max() < 0.1)
    True
    """
    generator = np.random.default_rng(seed)
    inputs, outputs = x.shape[1], y.shape[1]
    batch = min(_BATCH, len(x))
    wide, narrow = 1 / np.sqrt(inputs), 1 / np.sqrt(hidden)
    network = Perceptron(
        inner=((generator.random((inputs, hidden)) * 2 - 1) * wide).astype(np.float32),
        inner_bias=((generator.random(hidden) * 2 - 1) * wide).astype(np.float32),
        outer=((generator.random((outputs, hidden)) * 2 - 1) * narrow).astype(np.float32),
        outer_bias=np.zeros(outputs, np.float32),
    )
    kept = len(x) - len(x) % batch
    order = np.concatenate([generator.permutation(len(x))[:kept] for _ in range(epochs)])
    _train(
        np.ascontiguousarray(x, np.float32),
        np.ascontiguousarray(y, np.float32),
        order,
        batch,
        rate,
        network.inner,
        network.inner_bias,
        network.outer,
        network.outer_bias,
    )
    return network


def apply(network: Perceptron, x: Float32) -> Float32:
    """What the network makes of each sample.

    Parameters
    ----------
    network : Perceptron
    x : float32 (samples, inputs)

    Returns
    -------
    float32 (samples, outputs)
    """
    out = np.empty((len(x), len(network.outer)), np.float32)
    in_blocks(
        _apply,
        len(x),
        np.ascontiguousarray(x, np.float32),
        network.inner,
        network.inner_bias,
        network.outer,
        network.outer_bias,
        out,
    )
    return out


def as_table(network: Perceptron) -> Float32:
    """All weights in one array, to be kept in a file.

    Parameters
    ----------
    network : Perceptron

    Returns
    -------
    float32 (inputs + 1 + outputs, hidden + 1)
        A row for each input, one for the hidden units' biases and one for each output, whose last entry is its bias.
    """
    inputs, hidden = network.inner.shape
    table = np.zeros((inputs + 1 + len(network.outer), hidden + 1), np.float32)
    table[:inputs, :hidden] = network.inner
    table[inputs, :hidden] = network.inner_bias
    table[inputs + 1 :, :hidden] = network.outer
    table[inputs + 1 :, hidden] = network.outer_bias
    return table


def from_table(table: Float32, outputs: int) -> Perceptron:
    """The network that `as_table` wrote.

    Parameters
    ----------
    table : float32 (inputs + 1 + outputs, hidden + 1)
    outputs : int

    Returns
    -------
    Perceptron

    Examples
    --------
    >>> network = train(np.eye(4, dtype=np.float32), np.ones((4, 2), np.float32), 3, epochs=1, rate=0.1)
    >>> bool((from_table(as_table(network), 2).outer == network.outer).all())
    True
    """
    inner, bias, outer = np.split(table, [len(table) - outputs - 1, len(table) - outputs])
    parts = (inner[:, :-1], bias[0, :-1], outer[:, :-1], outer[:, -1])
    return Perceptron(*(np.ascontiguousarray(part) for part in parts))
