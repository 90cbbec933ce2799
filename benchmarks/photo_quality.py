"""How good are fillings of photos larger than the model? matfill beside OpenCV's and scikit-image's methods.

    python benchmarks/photo_quality.py --data "$MATFILL_DATA/bsds500/test" --weights photos

Photos and holes stay at their own size, as `matfill inpaint` fills them: models that were trained on patches look
through windows at full resolution, others at the whole frame, squeezed. (Images of the model's own size work as well,
but for those there is inpainting_quality.py.) Needs the `bench` extra. All methods fill the same holes. All figures are
over missing pixels only, computed for each photo and then averaged over photos, with standard errors:

* PSNR, dB: 10 log10(255^2 / MSE), MSE over the missing pixels of the photo and their channels; higher is better.
* over biharmonic, dB: the difference of a photo's PSNR to that of scikit-image's biharmonic filling.
* gradients, bits: how far the filling's histogram of gradients is from the truth's: their Jensen-Shannon divergence, 0
  where they are equal, 1 where they share nothing. A gradient is the length, in levels of 255, of the luma's (ITU-R
  601) differences to the right and downwards, all three pixels being missing; 64 bins up to 128 levels, equally wide in
  the root of the gradient, the last one for all beyond. By chance alone, two fillings with n independent gradients of
  one texture are up to 63 / (4 n ln 2) bits apart on average: 0.02 with three squares of 20.
* variance: the mean of |ln((v + 1) / (w + 1))| with the luma's variances v of the filling and w of the truth (squared
  levels) in every patch of 5x5 pixels inside the hole: how wrong the filling's local contrast is, wherever it is.
* its sign: the mean of the same without the bars: below 0, the filling is too smooth, above, too rough.

The mean of k samples is the best guess in the sense of squared error, and blurred; the first of them is "one sample",
what one would look at. The seed shuffles the photos of the folder; a photo's hole and fillings depend on the seed and
on the photo's place among the sorted names only, so that fewer photos, with their holes, are a subset of more.

Last measured on 26 November 2026, one core of an AMD EPYC, the 100 test photos of BSDS500 (481x321), random3x20 (0.8 %
of the pixels), seed 0, `photos` after 395 minutes of training, and 7 on a GPU:

| method | PSNR, dB | over biharmonic, dB | gradients, bits | variance | its sign |
|---|---|---|---|---|---|
| OpenCV Telea | 21.77 ± 0.55 | -0.07 ± 0.17 | 0.214 ± 0.012 | 1.591 ± 0.049 | -1.099 ± 0.074 |
| OpenCV Navier-Stokes | 21.81 ± 0.57 | -0.02 ± 0.17 | 0.211 ± 0.012 | 1.592 ± 0.050 | -1.114 ± 0.074 |
| scikit-image biharmonic | 21.83 ± 0.58 | | 0.217 ± 0.010 | 1.505 ± 0.049 | -1.144 ± 0.069 |
| matfill photos, one sample | 23.20 ± 0.56 | 1.36 ± 0.17 | 0.124 ± 0.008 | 1.205 ± 0.044 | -0.826 ± 0.061 |
| matfill photos, mean of 16 | 23.81 ± 0.57 | 1.98 ± 0.18 | 0.193 ± 0.011 | 1.606 ± 0.069 | -1.401 ± 0.080 |
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import classical
import numpy as np
from inpainting_quality import chosen, heading, mean_and_error, psnr
from paper_tables import Section, show
from PIL import Image
from rich.console import Console
from rich.progress import track

import matfill
from matfill import images, masks
from matfill.errors import one_line

TOP, BINS = 128, 64  # levels of 255 up to which gradients are told apart, and by how many bins
EDGES = TOP * np.linspace(0, 1, BINS + 1) ** 2
PATCH = 5  # pixels along the side of the patches that variances are of

#: what a method scores on one photo, or with its error over photos, and as what it is shown, with how many digits
FIGURES = {
    "psnr": ("PSNR, dB", 2),
    "over_biharmonic": ("over biharmonic, dB", 2),
    "gradients": ("gradients, bits", 3),
    "variance": ("variance", 3),
    "variance_sign": ("its sign", 3),
}


# --- measures --------------------------------------------------------------------------------------------------------


def luma(photo: np.ndarray) -> np.ndarray:
    """Of uint8 (H, W, 1 or 3): (H, W), 0 to 255."""
    return photo @ images.LUMA.astype(float) if photo.shape[2] == 3 else photo[..., 0].astype(float)


def gradients(grey: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Share of each bin in the histogram of the gradients among the missing pixels of (H, W); NaN if there are none."""
    inside = missing[:-1, :-1] & missing[:-1, 1:] & missing[1:, :-1]
    lengths = np.hypot(np.diff(grey, axis=1)[:-1], np.diff(grey, axis=0)[:, :-1])[inside]
    with np.errstate(invalid="ignore"):
        return np.histogram(lengths.clip(max=TOP), EDGES)[0] / np.float64(lengths.size)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon, of two histograms, in bits."""
    both = np.array((p, q))
    ratio = np.divide(both, both.mean(0), out=np.ones_like(both), where=both != 0)
    return float((both * np.log2(ratio)).sum() / 2)


def variances(grey: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Of every patch of (H, W) that is all missing."""
    inside = np.lib.stride_tricks.sliding_window_view(missing, (PATCH, PATCH)).all(axis=(2, 3))
    return np.lib.stride_tricks.sliding_window_view(grey, (PATCH, PATCH))[inside].var(axis=(1, 2))


def measure(truth: np.ndarray, filled: np.ndarray, missing: np.ndarray) -> dict[str, float]:
    """FIGURES of one filling, all but the difference to biharmonic's. NaN where the hole is too narrow for one."""
    grey, guess = luma(truth), luma(filled)
    ratios = np.log((variances(guess, missing) + 1) / (variances(grey, missing) + 1))
    return {
        "psnr": float(psnr(truth[None], filled[None], missing[None])[0]),
        "gradients": divergence(gradients(grey, missing), gradients(guess, missing)),
        "variance": float(np.abs(ratios).mean()) if ratios.size else np.nan,
        "variance_sign": float(ratios.mean()) if ratios.size else np.nan,
    }


def summary(scores: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """Mean and standard error over photos of each of FIGURES; None where less than two photos have any."""
    result: dict[str, float | None] = {"images": len(scores)}
    for key in FIGURES:
        values = np.array([one[key] for one in scores])
        values = values[np.isfinite(values)]
        result[key], result[f"{key}_error"] = mean_and_error(values) if len(values) > 1 else (None, None)
    return result


# --- the comparison --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Work:
    """A photo, as the library fills it."""

    truth: np.ndarray  #: uint8 (H, W, C)
    missing: np.ndarray  #: bool (H, W)
    seed: int

    @property
    def holed(self) -> np.ndarray:
        """The photo with its hole blacked out, so that no method can look."""
        return np.where(self.missing[..., None], np.uint8(0), self.truth)

    @property
    def photo(self) -> images.Photo:
        return images.Photo(self.holed)


def works(folder: Path, count: int, channels: int, spec: str, seed: int) -> Iterator[Work]:
    """Photos with their holes, read as they are needed."""
    sampler = masks.parse(spec)
    for index, path in chosen(folder, count, seed):
        with Image.open(path) as file:
            picture = images.decode(file, channels)
        truth = np.asarray(picture).reshape(picture.height, picture.width, channels)
        missing = sampler(*truth.shape[:2], np.random.default_rng((seed, index)))
        yield Work(truth, missing, int(np.random.SeedSequence((seed, index)).generate_state(1)[0]))


def compare(
    model: matfill.Inpainter, some: Iterator[Work], samples: int
) -> Iterator[tuple[float, dict[str, dict[str, float]]]]:
    """Of every photo the share of its pixels that is missing, and what each method scores."""
    for work, drawn, _ in model.fill_all(some, samples=samples, temperature=model.temperatures()):
        if isinstance(drawn, Exception):
            raise drawn
        filled = {name: method(work.holed, work.missing) for name, method in classical.METHODS.items()}
        means = np.rint(255 * drawn.mean_rows).astype(np.uint8)
        for name, rows in (("one sample", drawn.rows[0]), (f"mean of {samples}", means)):
            filled[f"matfill, {name}"] = work.truth.copy()
            filled[f"matfill, {name}"][work.missing] = rows
        scores = {name: measure(work.truth, guess, work.missing) for name, guess in filled.items()}
        for found in scores.values():
            found["over_biharmonic"] = found["psnr"] - scores["scikit-image biharmonic"]["psnr"]
        yield float(work.missing.mean()), scores


def line(name: str, found: dict[str, float | None]) -> tuple[str, ...]:
    """A row of the table."""
    return name, *(
        "" if found[key] is None else f"{found[key]:.{digits}f} ± {found[f'{key}_error']:.{digits}f}"
        for key, (_, digits) in FIGURES.items()
    )


def main(given: Sequence[str] | None = None) -> int:
    """The program; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of held-out photos")
    add("--weights", required=True, help="name or file of the model's weights")
    add("--mask", default="random3x20", help="mask specification (default: %(default)s)")
    add("--images", type=int, default=100, help="how many, from 2 (default: %(default)s)")
    add("--samples", type=int, default=16, help="fillings per photo for the mean (default: %(default)s)")
    add("--seed", type=int, default=0, help="of photos, holes and fillings (default: %(default)s)")
    add("--json", type=Path, help="write all figures here as well")
    options = parser.parse_args(given)
    classical.require()
    count = len(chosen(options.data, options.images, options.seed))
    if count < 2:
        parser.error("standard errors take two photos or more")
    console = Console(stderr=True)
    try:
        model = matfill.load(options.weights)
        some = works(options.data, count, model.model.config.image_channels, options.mask, options.seed)
        found = compare(model, some, options.samples)
        found = list(track(found, "filling", count, console=console, disable=not console.is_terminal))
    except matfill.MatfillError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    shares, scores = zip(*found, strict=True)
    report = heading(["numpy", *classical.PACKAGES.values(), "torch"], model.device) | {
        "images": count,
        "mask": options.mask,
        "missing_share": float(np.mean(shares)),
        "methods": {
            name.replace("matfill", f"matfill {options.weights}"): summary([one[name] for one in scores])
            for name in scores[0]
        },
    }
    title = f"\n{count} photos, {options.mask}, {report['missing_share']:.1%} of the pixels missing"
    header = ("method", *(shown for shown, _ in FIGURES.values()))
    show([Section(title, header, [line(*each) for each in report["methods"].items()], [])])
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
