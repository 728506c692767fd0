"""Trains the network of `attacks/unmask/cleaning.py`; needs PyTorch (``pip install torch``) and a GPU to be quick.

``python benchmarks/train_cleaning.py --out cleaning.npz`` simulates challenges, attacks them with `unmask` and keeps
the images before each round beside the true ones. The network learns to turn the first into the second. Later
generations attack with the network of the generation before, so that it learns from the images that it will meet.

The private images are synthetic (`leaves`) or random crops of the embedded photographs of the attacker; no preset uses
either as private images. Training on a GPU is not repeatable to the bit, so neither are the weights. Those in the
package come from this recipe, in 64, 48 and 96 simulated challenges; the networks of the first two generations did not
see the standard deviation of the fit yet.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from instahide_nb.attacks.unmask import cleaning
from instahide_nb.attacks.unmask.attack import Unmask
from instahide_nb.challenge.build import build_challenge
from instahide_nb.core.arrays import Float32, UInt8
from instahide_nb.core.params import GenDataParams
from instahide_nb.core.threads import one_blas_thread
from instahide_nb.data.embedded import public_regions
from instahide_nb.data.photographs import reduce_area
from instahide_nb.data.sources import public_patches
from instahide_nb.evaluate.metrics import match_images

SIZE, FINE = 32, 128  # pixels of an image, and of the picture that it is reduced from
LOST = 0.25  # SSIM below which an image teaches nothing
WORST = 0.1  # share of pairs left out because their errors are largest
WIDTH, DEPTH, BATCH, RATE = 32, 7, 128, 1e-3
ENCRYPTIONS = (5, 6, 8, 10, 10, 10, 14, 20, 32)  # per image, equally likely


def texture(rng: np.random.Generator) -> Float32:
    """Noise (FINE, FINE, 3) whose amplitude falls with a power of the frequency, with variance 1."""
    frequency = np.hypot(np.fft.fftfreq(FINE)[:, None], np.fft.rfftfreq(FINE)[None])
    frequency[0, 0] = 1 / FINE
    filter_, own = frequency ** -rng.uniform(0.6, 1.6), rng.uniform(0, 0.5)
    white = (1 - own) * rng.normal(size=(FINE, FINE, 1)) + own * rng.normal(size=(FINE, FINE, 3))
    noise = np.fft.irfft2(np.fft.rfft2(white, axes=(0, 1)) * filter_[..., None], (FINE, FINE), axes=(0, 1))
    noise -= noise.mean(axis=(0, 1))
    return (noise / noise.std(axis=(0, 1))).astype(np.float32)


def leaf(rng: np.random.Generator) -> UInt8:
    """A picture of overlapping shapes of all sizes ("dead leaves") with shading, texture and blur, (32, 32, 3)."""
    y, x = np.mgrid[:FINE, :FINE].astype(np.float32)
    picture, free = np.zeros((FINE, FINE, 3), np.float32), np.ones((FINE, FINE), bool)
    base = rng.uniform(0.3, 0.7) + rng.normal(0, 0.06, 3)
    contrast, colour = rng.choice([0.1, 0.18, 0.25, 0.3]), rng.choice([0.03, 0.15, 0.3, 0.5])
    smallest, textures = rng.choice([3, 6, 12, 25]), [texture(rng) for _ in range(3)]
    palette = base + rng.normal(0, contrast, (5, 1)) + colour * rng.normal(0, contrast, (5, 3))
    for _ in range(300):
        radius = min(FINE * 0.8, smallest * (1 - rng.random() * 0.999) ** -0.5)
        other, angle = radius * rng.uniform(0.25, 1), rng.uniform(0, np.pi)
        dx, dy = (axis - rng.uniform(-FINE * 0.2, FINE * 1.2) for axis in (x, y))
        u, v = dx * np.cos(angle) + dy * np.sin(angle), -dx * np.sin(angle) + dy * np.cos(angle)
        rough = 1 + rng.uniform(0, 0.12) * textures[rng.integers(3)][..., 0]
        shape = [
            (u / radius) ** 2 + (v / other) ** 2 < rough,
            (np.abs(u) < radius) & (np.abs(v) < other),
            (v > -other) & (v + np.abs(u) * other / radius * 1.5 < other * rough),
        ][rng.choice(3, p=[0.5, 0.25, 0.25])] & free
        tone = palette[rng.integers(5)] + rng.normal(0, contrast * 0.3)
        if rng.random() < 0.3:
            tone = base + rng.normal(0, contrast) + colour * rng.normal(0, contrast, 3)
        slope = rng.normal(0, 0.5 * contrast, 2) / max(radius, 20)
        rough_tone = rng.choice([0, 0.02, 0.05, 0.12]) * textures[rng.integers(3)]
        picture[shape] = (tone + (dx * slope[0] + dy * slope[1])[..., None] + rough_tone)[shape]
        free &= ~shape
    picture[free] = base
    picture = gaussian_filter(picture, (*[rng.choice([0, 0, 1, 2, 4])] * 2, 0))
    light = rng.normal(0, 0.24 / FINE, 2)
    picture += ((x - FINE / 2) * light[0] + (y - FINE / 2) * light[1])[..., None]
    if rng.random() < 0.1:
        picture[:] = picture.mean(axis=2, keepdims=True)
    step = FINE // SIZE
    small = picture.reshape(SIZE, step, SIZE, step, 3).mean(axis=(1, 3))
    return np.clip(255 * small, 0, 255).astype(np.uint8)


@cache
def photographs() -> list[UInt8]:
    """The embedded photographs of the attacker, in colour."""
    found = [photograph.read() for photograph in public_regions("attacker")]
    return [np.repeat(p[..., None], 3, axis=2) if p.ndim == 2 else p for p in found]


def crop(rng: np.random.Generator) -> UInt8:
    """A random square of a random photograph, reduced, mirrored half of the time."""
    photograph = photographs()[rng.integers(len(photographs()))]
    height, width = photograph.shape[:2]
    side = int(rng.uniform(min(64, height, width), min(height, width) + 1))
    y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
    small = reduce_area(np.ascontiguousarray(photograph[y : y + side, x : x + side]), (SIZE, SIZE))
    return small[:, ::-1] if rng.random() < 0.5 else small


class Recorded(Unmask):
    """The attack, which keeps the network's inputs before each round; `learned` says whether there is a network."""

    learned: bool

    def _clean(self) -> None:
        now, n = self.now, self.now.known.n_images
        self.inputs.append((now.image[:n].copy(), now.flip_gain(), now.deviation()))
        if self.learned:
            super()._clean()


def simulate(job: tuple[int, Path, Path | None]) -> str:
    """Attack one simulated challenge and save the pairs of images to a folder."""
    seed, folder, weights = job
    rng = np.random.default_rng(seed)
    make = leaf if seed % 3 else crop
    private = folder / f"private-{seed}.npz"
    np.savez(private, images=np.stack([make(rng) for _ in range(100)]), labels=np.arange(100) % 10)
    many = int(rng.choice(ENCRYPTIONS))
    labels = rng.choice(["coefficients", "coefficients", "none"]) if many > 8 else "coefficients"
    given = {"seed": seed, "encryptions_per_image": many, "labels": str(labels), "private_source": str(private)}
    params = GenDataParams(**given, n_private=100, k=6, n_public=2000)
    challenge = build_challenge(params)
    if weights:
        cleaning.WEIGHTS = weights
        cleaning._layers.cache_clear()
    attack = Recorded(challenge.release, public_patches("embedded:attacker", 2000))
    attack.learned, attack.inputs = weights is not None, []
    with one_blas_thread():
        attack.find_edges()
        attack.find_first_codes()
        attack.find_first_images()
        attack.uncertain = True
        attack.refine()
        attack.share_public_images()
    place, ssim, _ = match_images(attack.result().recovered, challenge.secret.private)
    good, true = ssim > LOST, challenge.secret.private.transpose(0, 3, 1, 2)
    kept = [np.concatenate([step[i][place][good] for step in attack.inputs]) for i in range(3)]
    np.savez(folder / f"pairs-{seed}.npz", *kept, np.concatenate([true[good]] * len(attack.inputs)))
    return f"challenge {seed}: {many} encryptions per image, mean SSIM {ssim.mean():.3f}"


class Network(nn.Module):
    """What `cleaning` computes, in floating point."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [10, *[WIDTH] * (DEPTH - 1), 3]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, image: Tensor, gain: Tensor, deviation: Tensor) -> Tensor:
        certain = gain / torch.sqrt(1 + gain * gain)
        constant = (cleaning._DOUBT * deviation)[:, None, None, None].expand(-1, 1, SIZE, SIZE)
        value = torch.cat([image, image.abs(), certain, constant], 1)
        for layer in self.layers[:-1]:
            value = torch.relu(layer(value))
        return image + self.layers[-1](value)

    def save(self, path: Path) -> None:
        """Round the weights to the whole multiples that `cleaning` reads."""
        arrays = {}
        for i, layer in enumerate(self.layers):
            weight, bias = (a.detach().cpu().numpy() for a in (layer.weight, layer.bias))
            arrays[f"weight{i}"] = np.rint(weight.transpose(2, 3, 1, 0) * cleaning._WEIGHT_ONE).astype(np.int16)
            arrays[f"bias{i}"] = np.rint(bias * cleaning._WEIGHT_ONE * cleaning._ONE).astype(np.int32)
        np.savez(path, **arrays)


def train(network: Network, files: list[Path], steps: int, device: str) -> None:
    """Minimise the mean absolute error; mirrored images and exchanged colours multiply the pairs."""
    parts = []
    for file in files:
        with np.load(file) as stored:
            image, gain, deviation, true = (stored[f"arr_{i}"].astype(np.float32) for i in range(4))
        true = true * np.float32(2 / 255) - 1
        error = np.abs(image - true).mean(axis=(1, 2, 3))
        good = error <= np.quantile(error, 1 - WORST) if len(error) else error > 0
        parts.append([a[good] for a in (image, gain, deviation, true)])
    data = [torch.from_numpy(np.concatenate(column)).to(device) for column in zip(*parts, strict=True)]
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    total = before = 0.0
    for step in range(1, steps + 1):
        chosen, colours = torch.randint(len(data[0]), (BATCH,), device=device), torch.randperm(3, device=device)
        mirror = (torch.rand(BATCH, device=device) < 0.5)[:, None, None, None]
        image, gain, true = (
            torch.where(mirror, a.flip(3), a) for a in (data[i][chosen][:, colours] for i in (0, 1, 3))
        )
        loss = (network(image, gain, data[2][chosen]) - true).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        total, before = total + float(loss), before + float((image - true).abs().mean())
        if step % 1000 == 0 or step == steps:
            print(
                f"step {step}: mean absolute error {total / step:.4f}; {before / step:.4f} without cleaning", flush=True
            )


def main() -> None:
    """Simulate and train, one generation after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file of weights to write")
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--challenges", type=int, default=96, help="simulated in each generation")
    parser.add_argument("--steps", type=int, default=10000, help="of 128 pairs, in each generation")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    network, weights = Network(), None
    for generation in range(options.generations):
        with tempfile.TemporaryDirectory() as name, get_context("spawn").Pool(options.processes) as pool:
            first = 1000 * (generation + 1)
            jobs = [(first + i, Path(name), weights) for i in range(options.challenges)]
            for line in pool.imap_unordered(simulate, jobs):
                print(line, flush=True)
            train(network, sorted(Path(name).glob("pairs-*.npz")), options.steps, device)
        network.save(weights := options.out.resolve())


if __name__ == "__main__":
    main()
