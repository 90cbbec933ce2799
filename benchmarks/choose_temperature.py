"""Which temperature should weights ask for? Level by level, the one of the lowest energy score on validation images.

    python benchmarks/choose_temperature.py --data "$MATFILL_DATA/celeba64" --weights runs/faces
    python benchmarks/choose_temperature.py --data "$MATFILL_DATA/celeba64" --weights runs/faces --temperature 1 0 0 0.4

The images are those that training set aside, where the data are those of the training, or else are cut the same way.

The energy score (Gneiting & Raftery 2007, section 4.2) of samples X and truth y is E|X - y| - E|X - X'| / 2, with the
Euclidean distance over the missing pixels of an image, here divided by the root of their number. It is strictly proper:
smallest in expectation when the samples are distributed like the truth. Too cold, and the first term is all there is;
too hot, and it grows faster than the second helps. PSNR of one sample and of the mean of k stand beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from inpainting_quality import mean_and_error, psnr
from machine import machine

from matfill.batches import heldout
from matfill.checkpoint import load_weights
from matfill.data import open_for
from matfill.inpainting import fill_batch, temperatures

VALUES = (0.0, 0.3, 0.5, 0.7, 1.0)
SWEEPS = 2


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the data that the model was trained on")
    add("--weights", required=True)
    add("--mask", default="random3x20", help="(default: %(default)s)")
    add("--images", type=int, default=64, help="(default: %(default)s)")
    add("--samples", type=int, default=8, help="per image (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add(
        "--temperature",
        type=float,
        nargs="+",
        action="append",
        help="of every level, coarsest first: score this one alone; may be given several times",
    )
    options = parser.parse_args()
    model, card = load_weights(options.weights)
    config = model.config
    with tempfile.TemporaryDirectory() as cache:
        found = open_for(options.data, config, card, cache=cache)
        binary = config.output == "bernoulli"
        tensors = heldout(found.val, options.images, options.mask, options.seed, binary=binary)
    images, missing = tensors[0].movedim(1, -1).numpy(), tensors[1][:, 0].numpy()
    print(f"{machine()}; {len(images)} images, {options.samples} samples, {options.mask}, seed {options.seed}\n")
    print("| temperature, coarse to fine | energy score | PSNR of one, dB | of the mean, dB |\n|---|---|---|---|")
    scores: dict[tuple[float, ...], float] = {}

    def score(temperature: tuple[float, ...]) -> float:
        if temperature not in scores:
            filled = fill_batch(
                model, images, missing, samples=options.samples, seed=options.seed, temperature=temperature
            )
            scores[temperature], error = mean_and_error(energy_score(images, filled, missing))
            one = psnr(images, filled[0], missing).mean()
            mean = psnr(images, filled.mean(0), missing).mean()
            name = " ".join(f"{t:g}" for t in temperature)
            print(f"| {name} | {scores[temperature]:.4f} ± {error:.4f} | {one:.2f} | {mean:.2f} |", flush=True)
        return scores[temperature]

    if options.temperature:
        for temperature in options.temperature:
            score(temperatures(temperature, len(config.levels)))
        return
    best = (0.0,) * len(config.levels)
    for level in [*range(len(best))] * SWEEPS:  # one level at a time, the others at the best values so far
        best = min(((*best[:level], value, *best[level + 1 :]) for value in VALUES), key=score)
    print("\nlowest energy score:", ",".join(f"{t:g}" for t in best))


if __name__ == "__main__":
    main()
