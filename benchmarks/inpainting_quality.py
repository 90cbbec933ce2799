"""How good are fillings? matfill beside OpenCV's and scikit-image's, on the same photos with the same holes.

    python benchmarks/inpainting_quality.py --data "$MATFILL_DATA/celeba64/test" --weights faces

Needs the `bench` extra. Images are squeezed to the model's own size where they have another; photo_quality.py measures
photos at theirs. Figures are over missing pixels only:

* PSNR, dB: 10 log10(255^2 / MSE) of each image, MSE over its missing pixels and their channels; then the mean over
  images with its standard error. (The PSNR of the mean MSE is lower.)
* SSIM: scikit-image's map (7x7 windows, over the whole filled image), averaged over the missing pixels of each image;
  then likewise.
* bits/dim: the model's free energy, an upper bound on -log2 p(missing | observed), from one latent sample per image:
  sum over images / number of missing values, with the standard error of that ratio.
* s/image: wall time per image; the classical methods run one image after another on one thread of their own choosing,
  the model in chunks.

"mean of k" is the mean of k samples, rounded: the best guess in the sense of squared error, and blurred; a single
sample is what one would look at. The seed shuffles the images of the folder; an image's hole depends on the seed and on
the image's place among the sorted names only, so that fewer images, with their holes, are a subset of more.

Last measured on 27 November 2026, 1,500 test faces of CelebA at 64x64, random3x20 (25.4 % of the pixels), seed 0, on
one core of an AMD EPYC without bfloat16, while the other one was busy (with bfloat16, earlier weights took 0.0105 and
0.1764 s/image):

| method | images | PSNR, dB | SSIM | bits/dim | s/image |
|---|---|---|---|---|---|
| OpenCV Telea | 1500 | 15.35 ± 0.06 | 0.432 ± 0.002 |  | 0.0012 |
| OpenCV Navier-Stokes | 1500 | 15.25 ± 0.06 | 0.427 ± 0.003 |  | 0.0016 |
| scikit-image biharmonic | 1500 | 16.29 ± 0.06 | 0.472 ± 0.002 |  | 0.0066 |
| matfill faces, one sample | 1500 | 20.02 ± 0.07 | 0.687 ± 0.002 | 2.881 ± 0.008 | 0.0275 |
| matfill faces, mean of 16 | 1500 | 20.38 ± 0.07 | 0.705 ± 0.002 | 2.881 ± 0.008 | 0.4660 |
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import classical
import numpy as np
from machine import machine
from PIL import Image

from matfill import images as image_files
from matfill import masks

if TYPE_CHECKING:  # the classical methods alone do not need torch
    import torch

    from matfill.model import MatNet

#: (images uint8 (N, H, W, C), missing bool (N, H, W)) -> filled, uint8 (N, H, W, C)
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]

CHUNK = 50  # images that the model fills or scores at once
LEAST_MSE = 1 / 12  # of rounding to whole grey levels; keeps the PSNR of a perfect filling finite (58.9 dB)


# --- methods ---------------------------------------------------------------------------------------------------------


def each(method: Method, images: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """A method that takes a single image, on one after another."""
    return np.stack([method(image, hole) for image, hole in zip(images, missing, strict=True)])


def load(weights: str, temperature: list[float] | None) -> tuple[MatNet, tuple[float, ...]]:
    """The model, on a GPU where there is one, and the temperature of every level: the given one, or else the weights'
    own."""
    from matfill.checkpoint import load_weights
    from matfill.devices import pick_device
    from matfill.inpainting import temperatures

    model, card = load_weights(weights)
    chosen = temperatures(temperature or card.get("temperature", 1.0), len(model.config.levels))
    return model.to(pick_device("auto")), chosen


def matnet(
    model: MatNet,
    samples: int,
    seed: int,
    temperature: tuple[float, ...],
    images: np.ndarray,
    missing: np.ndarray,
) -> np.ndarray:
    """The mean of `samples` fillings by the model; of one, the filling itself."""
    from matfill.inpainting import fill_batch

    filled = np.empty_like(images)
    for start in range(0, len(images), CHUNK):
        some = slice(start, start + CHUNK)
        drawn = fill_batch(
            model, images[some], missing[some], samples=samples, seed=seed + start, temperature=temperature
        )
        filled[some] = drawn.mean(axis=0).round()
    return filled


# --- measures --------------------------------------------------------------------------------------------------------


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error, of one value per image."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def psnr(images: np.ndarray, filled: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """dB over the missing pixels of each image: (N,)."""
    squares = ((images.astype(float) - filled) ** 2).mean(axis=-1)
    mse = (squares * missing).sum(axis=(1, 2)) / missing.sum(axis=(1, 2))
    return 10 * np.log10(255**2 / np.maximum(mse, LEAST_MSE))


def ssim(images: np.ndarray, filled: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Mean of the SSIM map over the missing pixels of each image: (N,)."""
    from skimage.metrics import structural_similarity

    values = []
    for image, guess, hole in zip(images, filled, missing, strict=True):
        _, full = structural_similarity(image, guess, channel_axis=-1, data_range=255, full=True)
        values.append(full[hole].mean())
    return np.array(values)


def free_energy(model: MatNet, images: np.ndarray, missing: np.ndarray, seed: int) -> tuple[float, float]:
    """The model's free energy in bits per missing value, and its standard error."""
    import torch

    from matfill import bounds
    from matfill.noise import gaussian_noise

    device, nats, dims = model.mean_image.device, [], []
    with torch.inference_mode():
        for start in range(0, len(images), CHUNK):
            x = torch.from_numpy(images[start : start + CHUNK]).to(device).permute(0, 3, 1, 2).float() / 255
            hole = torch.from_numpy(missing[start : start + CHUNK])[:, None].to(device)
            trace = model(x, hole, gaussian_noise(device, seed, start))
            nats.append(bounds.free_energy(trace).double().cpu().numpy())
            dims.append(bounds.missing_dims(trace).double().cpu().numpy())
    bits, dims = np.concatenate(nats) / np.log(2), np.concatenate(dims)
    ratio = bits.sum() / dims.sum()
    residuals = (bits - ratio * dims) / dims.mean()  # the ratio's, to first order
    return float(ratio), float(residuals.std(ddof=1) / np.sqrt(len(bits)))


# --- the comparison --------------------------------------------------------------------------------------------------


def chosen(folder: Path, count: int, seed: int) -> list[tuple[int, Path]]:
    """That many images of a folder, shuffled, each with its place among the sorted names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in Image.registered_extensions())
    if not paths:
        sys.exit(f"error: {folder} holds no images")
    return [(index, paths[index]) for index in np.random.default_rng(seed).permutation(len(paths))[:count].tolist()]


def read(folder: Path, count: int, size: int, channels: int, spec: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, size, size, channels), squeezed where they are of another size, and their holes (N, H, W)."""
    files = chosen(folder, count, seed)
    images = np.empty((len(files), size, size, channels), dtype=np.uint8)
    for row, (_, path) in zip(images, files, strict=True):
        with Image.open(path) as file:
            picture = image_files.decode(file, channels)
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.LANCZOS)
        row[...] = np.asarray(picture).reshape(row.shape)
    missing = masks.sample_batch(masks.parse(spec), size, size, [(seed, index) for index, _ in files])
    return images, missing


def heading(packages: Iterable[str], device: torch.device | None = None) -> dict[str, Any]:
    """Prints what is measured when, where (a model, on `device`) and with what; the same for a JSON file."""
    found = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(device),
        "packages": {name: version(name) for name in packages},
        "command": shlex.join(["python", *sys.argv]),
    }
    for key in ("date", "machine", "command"):
        print(f"{key}: {found[key]}")
    print("packages:", ", ".join(f"{name} {number}" for name, number in found["packages"].items()))
    return found


def measure(method: Method, images: np.ndarray, missing: np.ndarray) -> dict[str, float]:
    """Fill the images and compare. The holes are blacked out first, so that no method can look."""
    holed = np.where(missing[..., None], 0, images).astype(np.uint8)
    method(holed[:1], missing[:1])  # what is imported or set up at first does not count
    start = time.perf_counter()
    filled = method(holed, missing)
    seconds = (time.perf_counter() - start) / len(images)
    filled = np.where(missing[..., None], filled, images)
    decibels, decibels_error = mean_and_error(psnr(images, filled, missing))
    similarity, similarity_error = mean_and_error(ssim(images, filled, missing))
    return {
        "images": len(images),
        "psnr": decibels,
        "psnr_error": decibels_error,
        "ssim": similarity,
        "ssim_error": similarity_error,
        "seconds": seconds,
    }


def row(name: str, found: dict[str, float]) -> str:
    bits = f"{found['bits_per_dim']:.3f} ± {found['bits_per_dim_error']:.3f}" if "bits_per_dim" in found else ""
    quality = f"{found['psnr']:.2f} ± {found['psnr_error']:.2f} | {found['ssim']:.3f} ± {found['ssim_error']:.3f}"
    return f"| {name} | {found['images']} | {quality} | {bits} | {found['seconds']:.4f} |"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of held-out images")
    add("--weights", help="name or file of the model's weights; without it, only the classical methods are measured")
    add("--mask", default="random3x20", help="mask specification (default: %(default)s)")
    add("--images", type=int, default=1500, help="how many (default: %(default)s)")
    add("--samples", type=int, default=16, help="fillings per image for the mean (default: %(default)s)")
    add("--temperature", type=float, nargs="+", help="of every level, coarsest first (default: the weights' own)")
    add("--seed", type=int, default=0, help="of images, holes and fillings (default: %(default)s)")
    add("--size", type=int, default=64, help="side in pixels, without --weights (default: %(default)s)")
    add("--model-only", action="store_true", help="leave the classical methods out")
    add("--json", type=Path, help="write all figures here as well")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    classical.require()
    methods: dict[str, Method] = {}
    if not options.model_only:
        methods |= {name: partial(each, method) for name, method in classical.METHODS.items()}
    model, size, channels = None, options.size, 3
    if options.weights:
        model, temperature = load(options.weights, options.temperature)
        size, channels = model.config.image_size, model.config.image_channels
        for samples, what in ((1, "one sample"), (options.samples, f"mean of {options.samples}")):
            methods[f"matfill {options.weights}, {what}"] = partial(matnet, model, samples, options.seed, temperature)
    images, missing = read(options.data, options.images, size, channels, options.mask, options.seed)

    packages = ["numpy", *classical.PACKAGES.values()] + ["torch"] * bool(model)
    report = heading(packages, model and model.mean_image.device) | {
        "images": len(images),
        "mask": options.mask,
        "missing_share": float(missing.mean()),
        "methods": {},
    }
    print(f"{len(images)} images of {size}x{size}, {options.mask}, {missing.mean():.1%} of the pixels missing\n")
    print("| method | images | PSNR, dB | SSIM | bits/dim | s/image |\n|---|---|---|---|---|---|")
    bits = free_energy(model, images, missing, options.seed) if model else None
    for name, method in methods.items():
        found = measure(method, images, missing)
        if bits and name.startswith("matfill"):
            found["bits_per_dim"], found["bits_per_dim_error"] = bits
        report["methods"][name] = found
        print(row(name, found), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
