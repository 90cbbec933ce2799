"""Which temperature should weights ask for? A few settings, compared on validation images by the energy score.

    python benchmarks/choose_temperature.py --data "$MATFILL_DATA/celeba64/val" --weights runs/faces

The energy score (Gneiting & Raftery 2007, section 4.2) of samples X and truth y is E|X - y| - E|X - X'| / 2, with the
Euclidean distance over the missing pixels of an image, here divided by the root of their number. It is strictly proper:
smallest in expectation when the samples are distributed like the truth. Too cold, and the first term is all there is;
too hot, and it grows faster than the second helps. PSNR of one sample and of the mean of k stand beside it.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from inpainting_quality import load, machine, mean_and_error, psnr, read

from matfill.inpainting import fill_batch

VALUES = (0.0, 0.5, 1.0)


def energy_score(images: np.ndarray, filled: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Of filled (K, N, H, W, C) against images (N, H, W, C), all uint8, over missing (N, H, W): (N,), in [0, 1]."""
    scores = []
    count = len(filled)
    for i, hole in enumerate(missing):
        truth = images[i][hole].ravel() / 255
        samples = filled[:, i][:, hole].reshape(count, -1) / 255
        error = np.linalg.norm(samples - truth, axis=1).mean()
        spread = np.linalg.norm(samples[:, None] - samples[None], axis=-1).sum() / (count * (count - 1))
        scores.append((error - spread / 2) / np.sqrt(truth.size))
    return np.array(scores)


def settings(levels: int) -> list[tuple[float, ...]]:
    """Temperatures that do not rise from coarse to fine levels, with at most two different values."""
    found = []
    for warm, cold in itertools.product(VALUES, VALUES):
        cuts = [levels] if warm == cold else range(1, levels) if warm > cold else []
        found += [(warm,) * cut + (cold,) * (levels - cut) for cut in cuts]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of validation images")
    add("--weights", required=True)
    add("--mask", default="random3x20", help="(default: %(default)s)")
    add("--images", type=int, default=64, help="(default: %(default)s)")
    add("--samples", type=int, default=8, help="per image (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    options = parser.parse_args()
    model, _ = load(options.weights, None)
    config = model.config
    images, missing = read(
        options.data, options.images, config.image_size, config.image_channels, options.mask, options.seed
    )
    print(f"{machine()}; {len(images)} images, {options.samples} samples, {options.mask}, seed {options.seed}\n")
    print("| temperature, coarse to fine | energy score | PSNR of one, dB | of the mean, dB |\n|---|---|---|---|")
    best = None
    for temperature in settings(len(config.levels)):
        filled = fill_batch(model, images, missing, samples=options.samples, seed=options.seed, temperature=temperature)
        score, error = mean_and_error(energy_score(images, filled, missing))
        one = psnr(images, filled[0], missing).mean()
        mean = psnr(images, filled.mean(0), missing).mean()
        print(
            f"| {' '.join(f'{t:g}' for t in temperature)} | {score:.4f} ± {error:.4f} | {one:.2f} | {mean:.2f} |",
            flush=True,
        )
        best = min(best or (score, temperature), (score, temperature))
    print("\nlowest energy score:", ",".join(f"{t:g}" for t in best[1]))


if __name__ == "__main__":
    main()
