"""Named, reproducible runs: functions from switches to (ModelConfig, TrainConfig). A docstring is the run's receipt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from matfill.config import Level, ModelConfig, TrainConfig
from matfill.errors import ConfigError

Recipe = tuple[ModelConfig, TrainConfig]

#: what makes a model unconditional; pixels are counted from the training mean
UNCONDITIONAL = {"conditional": False, "stages": 1, "merge_to_top_down": False, "fill": "mean"}
#: how models of whole small images are trained, with the regulariser of eq. 13
WHOLE_IMAGES = TrainConfig(
    mask="all",
    batch=128,
    minutes=360,
    prediction_weight=0.0,
    own_samples_every=4,
    own_samples_from=2000,
    holdout=2000,
)


def faces() -> Recipe:
    """Two stages on 64x64 colour images, random3x20 holes, as in the paper's experiments on faces (section 3).

    `matfill train celeba64 --recipe faces`; some 35 images/s on 2 cores of an Intel Xeon with AMX, 26 on one of an AMD
    EPYC, bfloat16; 650 on an NVIDIA H100 that trains ten other models at the same time, 1,480 on an NVIDIA H200. The
    bundled weights came of six shorter runs, 30 and 49 minutes on the first of these, 160 and 180 on the second, 7 on
    the third, 12 on the last, whose commands are on their card in weights/README.md: 2.881 bits per missing dimension
    on 1,500 test faces of CelebA, the mean of 16 samples 4.09 dB over biharmonic, November 2026. Six hours of two cores
    are what the recipe asks for.
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


def photos() -> Recipe:
    """The model of `faces` on patches of photographs, and holes of all kinds: what fills any photo through windows.

    A part of the images has the hole known at half the resolution, as it is where a large one is filled octave by
    octave (see windows.py). `matfill train photos --recipe photos`, of any folder `photos` of photographs; some 20
    images/s on 2 cores of an AMD EPYC, 25 on one where both are in use, 50 with two processes of one thread in batches
    of 64, bfloat16. The bundled weights had 206 minutes on two, 189 on one, and 7 on a shared NVIDIA H100, from earlier
    weights of `faces` on: the mean of 16 samples is 1.98 dB over biharmonic on 100 test photos of BSDS500, November
    2026. Five hours of two cores are what the recipe asks for.
    """
    model, config = faces()
    config = dataclasses.replace(config, mask="random3x20,strokes,boxes", fit="patches", hinted=0.35, minutes=300)
    return model, config


def heritage() -> Recipe:
    """As `faces`, on bell towers, domes, vaults: it stands in for the paper's churches and towers (section 3).

    `matfill train heritage64 --recipe heritage`; 25 images/s on one core of an AMD EPYC, bfloat16. The bundled weights
    had 250 minutes there, from those of `photos` on: the mean of 16 samples is 2.46 dB over biharmonic on 1,000 test
    images, November 2026.
    """
    model, config = faces()
    return model, dataclasses.replace(config, minutes=120)


def quadrants() -> Recipe:
    """One stage on binarised digits, 28x28: one, two or three visible quadrants, as in section 3.

    `matfill train mnist --recipe quadrants`; some 150 images/s on one core of an AMD EPYC, bfloat16. The bundled
    weights had 297 minutes there, from those of `quadrants-plain` on, 7 on an NVIDIA H100 that trained ten other models
    at the same time, and 9 on an NVIDIA H200 that trained two (10,500 and 13,100 images/s): bounds of 55.98, 35.78 and
    17.36 nats (k = 100) on the 10,000 test digits with one, two and three visible quadrants, November 2026. Six hours
    of two cores are what the recipe asks for.
    """
    model = ModelConfig(
        image_size=28,
        image_channels=1,
        levels=(
            Level(size=1, channels=128, latents=32),
            Level(size=7, channels=80, latents=8, modules=3),
            Level(size=14, channels=64, latents=4, modules=2),
        ),
        stages=1,
        output="bernoulli",
        autoregression=3,
        flat_channels=16,
    )
    return model, TrainConfig(
        mask="quadrants1,quadrants2,quadrants3",
        batch=128,
        minutes=360,
        kl_warmup=500,
        prediction_weight=0.0,
        top_down_weight=0.5,
        holdout=2000,
    )


def quadrants_plain() -> Recipe:
    """As `quadrants`, without the local autoregression: all levels of latents come into use.

    `matfill train mnist --recipe quadrants-plain`; some 170 images/s on one core of an AMD EPYC, bfloat16. The bundled
    weights had 156 minutes there: bounds of 58.79, 37.12 and 18.27 nats (k = 100) on 1,000 validation digits with one,
    two and three visible quadrants, November 2026. Six hours are what the recipe asks for.
    """
    model, config = quadrants()
    return (
        dataclasses.replace(model, autoregression=0),
        dataclasses.replace(config, kl_warmup=400, prediction_weight=0.01, top_down_weight=0.0),
    )


def mnist_fc() -> Recipe:
    """Digits, binarised afresh every time: fully connected, GRU-style updates, seven latents one after the other.

    `matfill train mnist --recipe mnist-fc`, the paper's "FC MatNet" (table 4); 4,300 images/s on one core of an AMD
    EPYC, bfloat16, before its output had the wide layer. The bundled weights had 165 minutes there, 7 on a shared
    NVIDIA H100, on the bound of five samples 95 on two cores without bfloat16, and 727 on two of an Intel Xeon with
    AMX, most of them on warped digits, the last 230 with that layer: a bound of 80.49 nats (k = 2,500) on the test
    digits, November 2026. An update is mostly overhead, so that batches of 512 see three times as many images as
    batches of 128.
    """
    model = ModelConfig(
        image_size=28,
        image_channels=1,
        levels=(Level(size=1, channels=144, latents=16, modules=7),),
        output="bernoulli",
        update="gru",
        output_channels=512,  # or all 784 logits would be linear in 144 numbers
        **UNCONDITIONAL,
    )
    return model, dataclasses.replace(
        WHOLE_IMAGES, batch=512, minutes=120, kl_warmup=1500, learning_rate=1e-3, own_samples_every=0
    )


def mnist() -> Recipe:
    """Digits of the fixed binarisation: fully connected, 7x7 and 14x14, eleven latents, as in the paper's table 3.

    `matfill train binarized-mnist --recipe mnist`; some 190 images/s on one core of an AMD EPYC, bfloat16, and 160 with
    the steps on its own samples. The bundled weights had 70 minutes there, 7 on a shared NVIDIA H100, 36 of the
    inference stack alone on two cores without bfloat16, and on a shared NVIDIA H200 7 of the whole model (5,700
    images/s) and 2 of the inference stack: a bound of 79.71 nats (k = 250) on the test digits, November 2026. The small
    price on predictions is there lest z_0 fall silent, as it did in an earlier `mnist-fc`. Six hours of two cores are
    what the recipe asks for.
    """
    model = ModelConfig(
        image_size=28,
        image_channels=1,
        levels=(
            Level(size=1, channels=128, latents=32),
            Level(size=7, channels=64, latents=8, modules=5),
            Level(size=14, channels=48, latents=4, modules=5),
        ),
        output="bernoulli",
        branch_scale=0.25,  # at 0.5 the states of so many modules grow, and with them the first rates, to 3,500 nats
        **UNCONDITIONAL,
    )
    return model, dataclasses.replace(WHOLE_IMAGES, kl_warmup=400, prediction_weight=0.01)


def mnist_ar() -> Recipe:
    """Digits of the fixed binarisation: fully connected and 7x7, with the local autoregression of section 2.3.

    `matfill train binarized-mnist --recipe mnist-ar`; some 610 images/s with two processes on two cores of an Intel
    Xeon with AMX, bfloat16. The bundled weights had 259 minutes there with 24 channels of autoregression, the last 151
    with more warping, then with 48 on two cores of an AMD EPYC 114 without bfloat16 (235 images/s) and 128 with it (540
    images/s): a bound of 78.53 nats (k = 100) on the test digits, December 2026. The autoregression draws the strokes,
    so that a few latents are enough. The price on the top-down output is there lest it silence them all. Two digits in
    five are warped, and the model is told how, lest it learn them by heart.
    """
    model = ModelConfig(
        image_size=28,
        image_channels=1,
        levels=(Level(size=1, channels=144, latents=16, modules=7), Level(size=7, channels=48, latents=8)),
        output="bernoulli",
        autoregression=5,
        autoregression_channels=48,
        branch_scale=0.25,
        output_channels=128,
        sees_warp=True,
        **UNCONDITIONAL,
    )
    return model, dataclasses.replace(
        WHOLE_IMAGES,
        batch=512,
        minutes=120,
        kl_warmup=300,
        top_down_weight=0.3,
        own_samples_every=0,
        warp=0.1,
        warp_share=0.4,
    )


def omniglot() -> Recipe:
    """Drawn characters, binarised afresh every time: the model of `mnist`, as in the paper's table 1.

    `matfill train omniglot --recipe omniglot`; some 190 images/s on one core of an AMD EPYC, bfloat16. The bundled
    weights had 7 minutes on two cores without bfloat16 (55 images/s), from those of `omniglot-gmm` on (`--init
    omniglot-gmm --set prior_components=1`): a bound of 90.01 nats (k = 50) on the test drawings, November 2026. Six
    hours are what the recipe asks for from a random start.
    """
    return mnist()


def omniglot_gmm() -> Recipe:
    """As `omniglot`, with a mixture of 50 Gaussians as the prior over z_0: classes without labels (figure 3).

    `matfill train omniglot --recipe omniglot-gmm`; some 190 images/s on one core of an AMD EPYC, bfloat16. The bundled
    weights had 241 minutes on two cores without bfloat16 (55 images/s), from those of `mnist` on (`--init mnist --set
    prior_components=50`): a bound of 89.81 nats (k = 50) on the test drawings, November 2026.
    """
    model, config = omniglot()
    return (
        dataclasses.replace(model, prior_components=50),
        dataclasses.replace(config, minutes=120, component_entropy=0.3),
    )


def cifar10() -> Recipe:
    """Photographs, 32x32 in colour: integrated logistics, local autoregression; "MatNet+AR" in table 2.

    `matfill train cifar10 --recipe cifar10`; 75 images/s on one core of an AMD EPYC, bfloat16. The bundled weights had
    144 minutes there, and 7 on a shared NVIDIA H100, on 23,040 training images: a bound of 3.473 bits per dimension
    (k = 5) on 9,975 test images, November 2026. The price on the top-down output is there lest the autoregression
    silence all latents.
    """
    model = ModelConfig(
        image_size=32,
        image_channels=3,
        levels=(
            Level(size=1, channels=128, latents=32),
            Level(size=8, channels=128, latents=8, modules=2),
            Level(size=16, channels=80, latents=8, modules=3),
            Level(size=32, channels=32, latents=4, modules=2),
        ),
        output="logistic",
        mixtures=3,
        autoregression=5,
        autoregression_channels=48,
        branch_scale=0.25,
        **UNCONDITIONAL,
    )
    return model, TrainConfig(
        mask="all", batch=64, minutes=720, prediction_weight=0.0, top_down_weight=0.3, holdout=1000
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "faces": faces,
    "photos": photos,
    "heritage": heritage,
    "quadrants": quadrants,
    "quadrants-plain": quadrants_plain,
    "mnist-fc": mnist_fc,
    "mnist": mnist,
    "mnist-ar": mnist_ar,
    "omniglot": omniglot,
    "omniglot-gmm": omniglot_gmm,
    "cifar10": cifar10,
}


def recipe(name: str) -> Recipe:
    """The recipe of that name; ConfigError that lists the names otherwise."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]()
