"""Named, reproducible runs: functions from switches to (ModelConfig, TrainConfig). A docstring is the run's receipt."""

from __future__ import annotations

from collections.abc import Callable

from matfill.config import Level, ModelConfig, TrainConfig
from matfill.errors import ConfigError

Recipe = tuple[ModelConfig, TrainConfig]


def faces() -> Recipe:
    """Two stages on 64x64 colour images, random3x20 holes, as in the paper's experiments on faces (section 3).

    `matfill train celeba64 --recipe faces`; some 35 images/s on 2 cores of an Intel Xeon with AMX, bfloat16. The
    bundled weights came of two shorter runs, 30 and 49 minutes there, whose commands are on their card in
    weights/README.md: 3.199 bits per missing dimension on 1,500 test faces of CelebA, November 2026.
    """
    model = ModelConfig(
        image_size=64,
        image_channels=3,
        levels=(
            Level(size=1, channels=128, latents=32),
            Level(size=8, channels=80, latents=8, modules=2),
            Level(size=16, channels=96, latents=8),
            Level(size=32, channels=64, latents=4),
        ),
        stages=2,
        flat_channels=8,
    )
    return model, TrainConfig(mask="random3x20", batch=32, minutes=360, flip=True)


RECIPES: dict[str, Callable[[], Recipe]] = {"faces": faces}


def recipe(name: str) -> Recipe:
    """The recipe of that name; ConfigError that lists the names otherwise."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]()
