"""Is one run better than another? Bounds of the same images under several weights, and what the weights differ by.

    python benchmarks/compare_weights.py mnist mnist-fc runs/mnist-fc --split val --images 2000 --samples 100
    torchrun --nproc-per-node 2 benchmarks/compare_weights.py mnist mnist-fc runs/mnist-fc --split val

Images differ from one another by far more than weights do, so the standard error of a difference, taken image by image,
is a tenth or so of that of either score. `matfill eval` scores a run on the validation images that the run itself
set aside; here all weights are scored on those of the first. If others were trained on some of these, that is not seen.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from inpainting_quality import mean_and_error
from machine import machine
from torch import Tensor

from matfill import datasets
from matfill.batches import heldout
from matfill.checkpoint import load_weights
from matfill.config import PRECISIONS, ModelConfig
from matfill.data import open_for
from matfill.devices import fastest_precision, pick_device
from matfill.errors import ConfigError, MatfillError
from matfill.image_set import SPLITS
from matfill.processes import is_first, process_group
from matfill.scoring import Scores, score


def kind_of(config: ModelConfig) -> str:
    """What has to be alike where scores are compared: the images, and what p is a density of."""
    return f"{config.output} images of {config.image_channels} x {config.image_size} x {config.image_size}"


def difference(nats: Tensor, base: Tensor) -> str:
    """Mean and standard error of nats - base, both (N,) and of the same images."""
    mean, error = mean_and_error((nats - base).numpy())
    return f"{mean:+.3f} ± {error:.3f}"


def row(name: str, found: Scores, base: Scores) -> str:
    cells = [name]
    for nats, of_base in ((found.iwae_bound, base.iwae_bound), (found.free_energy, base.free_energy)):
        cells += [f"{float(nats.mean()):.2f}", "" if found is base else difference(nats, of_base)]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("images", metavar="DATA", help="a folder or file, or the name of a data set (see matfill data)")
    add("weights", nargs="+", help="bundled names, files or run folders; the others are compared with the first")
    add("--data", type=Path, help="where the named data sets are (default: $MATFILL_DATA)")
    add("--split", choices=SPLITS, default="val", help="as the first weights' run divided it (default: %(default)s)")
    add("--mask", default="all", help="(default: %(default)s)")
    add("--images", dest="count", type=int, default=2000, help="at most (default: %(default)s)")
    add("--samples", type=int, default=100, help="k (default: %(default)s)")
    add("--seed", type=int, default=0, help="of images, holes, binarisation and noise (default: %(default)s)")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.count < 2:
        parser.error(f"--images is {options.count}; a standard error takes two or more")
    try:
        compare(options)
    except MatfillError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def compare(options: argparse.Namespace) -> None:
    first, *others = options.weights
    model, card = load_weights(first)
    kind = kind_of(model.config)
    models = [model, *(load_weights(name)[0] for name in others)]
    for name, other in zip(others, models[1:], strict=True):
        if kind_of(other.config) != kind:
            raise ConfigError(f"{name} scores {kind_of(other.config)}, {first} {kind}; compare like with like")
    device, path = pick_device("auto"), datasets.locate(options.images, options.data)
    with process_group(device), tempfile.TemporaryDirectory(prefix="matfill-", ignore_cleanup_errors=True) as cache:
        precision = fastest_precision(device) if options.precision == "auto" else options.precision
        split = getattr(open_for(path, model.config, card, cache=cache), options.split)
        binary = model.config.output == "bernoulli"
        images, missing = heldout(split, options.count, options.mask, options.seed, binary=binary)
        if is_first():
            what = f"{len(images)} {options.split} images, mask {options.mask}, nats per image"
            print(f"{machine(device)}; {precision}; {what}\n")
            head = f"weights | bound, k = {options.samples} | difference | free energy | difference"
            print(f"| {head} |\n|---|---|---|---|---|", flush=True)
        base = None
        for name, one in zip(options.weights, models, strict=True):
            one.to(device)
            found = score(one, images, missing, samples=options.samples, seed=options.seed, precision=precision)
            base = base or found
            if is_first():
                print(row(name, found, base), flush=True)


if __name__ == "__main__":
    sys.exit(main())
