"""Turn a run into bundled weights: its averaged weights in half precision, with temperature and scores on the card.

    python benchmarks/release.py runs/faces --temperature 1,0.3,0.3,0 --scores scores.json --data-name "CelebA ..."

`--scores` is what `inpainting_quality.py --json` wrote; of it the card keeps the rows of the model and what they were
measured on. `--eval` is what `matfill eval --json` wrote, once for each mask; the card keeps all of it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from matfill.checkpoint import load_weights, save_weights
from matfill.inpainting import temperatures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", type=Path, help="run folder or weights file")
    add("--name", default="faces", help="of the bundled weights (default: %(default)s)")
    add("--temperature", help="one number, or one per level, coarsest first (default: what the weights have)")
    add("--scores", type=Path, help="JSON of inpainting_quality.py")
    add("--eval", type=Path, action="append", default=[], help="JSON of matfill eval; repeatable")
    add("--data-name", help="what the data is, and what its terms allow")
    options = parser.parse_args()
    model, card = load_weights(options.run)
    if options.temperature:
        values = [float(value) for value in options.temperature.split(",")]
        card["temperature"] = temperatures(values, len(model.config.levels))
    if options.scores:
        report = json.loads(options.scores.read_text())
        own = {name.split(", ")[-1]: row for name, row in report["methods"].items() if name.startswith("matfill")}
        kept = ("date", "machine", "images", "mask", "missing_share")
        card["scores"] = {key: report[key] for key in kept} | own
    if options.eval:
        found = [json.loads(path.read_text()) for path in options.eval]
        card["scores"] = card.get("scores", {}) | {one["mask"]: one for one in found}
    if options.data_name:
        card["data"]["name"] = options.data_name
    path = Path(__file__).parent.parent / "weights" / f"{options.name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_weights(path, model, {k: v for k, v in card.items() if k not in ("format", "model")}, torch.float16)
    print(f"{path.name}: {path.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
