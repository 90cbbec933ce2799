"""What a model is and how it is trained: frozen dataclasses with a strict round trip through plain dicts.

Nothing here imports torch, so the command line can show defaults without paying for it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from matfill.errors import ConfigError

OUTPUTS = ("logistic", "bernoulli", "gaussian")
FILLS = ("mean", "push-pull")
UPDATES = ("residual", "gru")
PRECISIONS = ("float32", "bfloat16")
FITS = ("crop", "squeeze", "patches")
WARP_VALUES = 5  # that tell how an image was warped, see MatNet.encode

#: What `--mask` takes of photos, and below what masks.parse understands, which it takes everywhere. Both are here
#: because the command line shows them without importing numpy.
HOLE_GRAMMAR = """\
FILE               an image of the photo's size, white where the photo is missing
FOLDER             one such image per photo, of its name with any extension, in a sub-folder like its own, or at the top
alpha              where the photo is transparent; what is filled becomes opaque
color:#ff00ff      where it has this colour; color:#ff00ff~20 up to 20 of 255 levels off, as JPEG needs
box:X,Y,W,H        a rectangle, pixels from the top left corner of the upright photo
"""
MASK_GRAMMAR = """\
randomNxS                  N squares of S pixels a side, anywhere in the image; they may overlap (random3x20)
centerS                    one centred square of S pixels a side (center32)
quadrantsN                 N quadrants stay visible, drawn at random; N is 1, 2 or 3
quadrantsNfixed            always the same: bottom left; the left half; all but bottom right
left, right, top, bottom   that half
boxes                      up to three boxes of 10 to 75 % of each side, which may lie across the image's edge
strokes                    free-form brush strokes over 10 to 35 % of the image
pixelsP                    P percent of the pixels, scattered; P from 1 to 99 (pixels50)
all                        everything, which is what unconditional models are for
A,B,...                    one of these, each as likely as the others (quadrants1,quadrants2)"""


def _require(ok: bool, owner: object, name: str, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{type(owner).__name__}.{name} is {getattr(owner, name)!r}; allowed: {allowed}")


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of an annotated type. A whole number may stand for a float; True is no number, nor is NaN."""
    if isinstance(kind, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, tuple):
            return False
        if kinds[-1] is Ellipsis:
            return all(_fits(each, kinds[0]) for each in value)
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind is float:
        return type(value) in (int, float) and abs(value) < math.inf
    return type(value) is kind


class _Config:
    """Checked types, and strict conversion between a frozen dataclass and the plain dict that JSON stores."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for field in fields(self):
            name = field.name
            if isinstance(getattr(self, name), list):  # what JSON makes of a tuple
                object.__setattr__(self, name, tuple(getattr(self, name)))
            _require(_fits(getattr(self, name), kinds[name]), self, name, f"a value of type {field.type}")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        if not isinstance(values, dict):
            raise ConfigError(f"{cls.__name__} is {values!r}; allowed: a dict of its fields")
        known = {f.name: f for f in fields(cls)}
        if unknown := sorted(set(values) - set(known), key=str):
            raise ConfigError(f"{cls.__name__} has no field {unknown[0]!r}; allowed: {', '.join(sorted(known))}")
        if absent := [name for name, f in known.items() if f.default is MISSING and name not in values]:
            raise ConfigError(f"{cls.__name__} lacks its field {absent[0]!r}; allowed: {known[absent[0]].type}")
        return cls(**values)


@dataclass(frozen=True)
class Level(_Config):
    """One spatial scale, a "meta module" of the paper (section 2.2)."""

    size: int  #: side of the square feature maps; 1 is a fully connected level
    channels: int  #: channels of h_td, h_bu and h_merge
    latents: int  #: channels of each module's z
    modules: int = 1  #: top-down modules, each with its own z

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("size", "channels", "latents", "modules"):
            _require(getattr(self, name) >= 1, self, name, "a whole number from 1")


@dataclass(frozen=True)
class ModelConfig(_Config):
    """A MatNet. The switches from `mixtures` on are our improvements; `paper()` turns them all off."""

    image_size: int  #: side of the square images, pixels
    image_channels: int  #: 1 (grey) or 3 (RGB)
    levels: tuple[Level, ...]  #: coarsest first; every stage has these
    conditional: bool = True  #: p(missing | observed), by a generator stack; without one, p(image)
    stages: int = 2  #: 1, or, of a conditional model, 2: a guess and its refinement
    output: str = "logistic"  #: distribution of the missing pixels, one of OUTPUTS
    autoregression: int = 0  #: masked layers of the local autoregression (section 2.3; there, 5); 0 for none
    autoregression_channels: int = 32  #: channels of each
    update: str = "residual"  #: of the modules' states, one of UPDATES; fully connected models of the paper have gru
    shared_modules: bool = False  #: the modules of a level have the same parameters
    prior_components: int = 1  #: of the Gaussian mixture over z_0, unconditional models only; 1 is N(0, I)
    ladder: bool = False  #: a probabilistic ladder network: every z sees but the one before it; unconditional only
    mixtures: int = 1  #: components of the mixture of logistics
    fill: str = "push-pull"  #: what stands in the hole before the generator sees it, one of FILLS
    channel_coupling: bool = True  #: a pixel's logistic for G shifts linearly with its R, B with R and G
    merge_to_top_down: bool = True  #: TopDown also sees the generator's merge state
    narrow_concat: bool = True  #: the first convolution after a concatenation is 1x1 (paper: 3x3)
    pixel_shuffle: bool = True  #: images enter and leave by pixel (un)shuffling; the output layer sees its input again
    flat_channels: int = 16  #: channels kept on the way into and out of a 1x1 level; 0 keeps all (paper)
    bounded_latents: bool = True  #: means and log-variances of z are softly bounded
    branch_scale: float = 0.5  #: initial scale of residual branches; the paper's is 1
    output_channels: int = 0  #: of the hidden layer before the output; 0 for as many as the finest level has
    sees_warp: bool = False  #: told how each image of training was warped, so that it learns them apart from true ones

    def __post_init__(self) -> None:
        if isinstance(self.levels, (list, tuple)):
            levels = tuple(Level.from_dict(x) if isinstance(x, dict) else x for x in self.levels)
            object.__setattr__(self, "levels", levels)
        super().__post_init__()
        levels = self.levels
        _require(self.image_size >= 1, self, "image_size", "a whole number from 1")
        _require(self.image_channels in (1, 3), self, "image_channels", "1, 3")
        _require(len(levels) >= 1, self, "levels", "at least one level")
        sizes = [level.size for level in levels]
        rising = all(b > a and (a == 1 or b % a == 0) for a, b in pairwise(sizes))
        fits = self.image_size % sizes[-1] == 0
        _require(
            rising and fits,
            self,
            "levels",
            "sizes that rise, each a multiple of the one before (any may follow "
            f"a size of 1) and the last a divisor of image_size {self.image_size}",
        )
        _require(self.stages in (1, 2), self, "stages", "1, 2")
        _require(self.output in OUTPUTS, self, "output", ", ".join(OUTPUTS))
        _require(self.update in UPDATES, self, "update", ", ".join(UPDATES))
        _require(self.prior_components >= 1, self, "prior_components", "a whole number from 1")
        if self.conditional:
            _require(self.prior_components == 1, self, "prior_components", "1 with conditional True")
            _require(not self.ladder, self, "ladder", "False with conditional True")
        else:
            _require(self.stages == 1, self, "stages", "1 with conditional False")
            _require(not self.merge_to_top_down, self, "merge_to_top_down", "False with conditional False")
        _require(not self.ladder or self.update == "residual", self, "update", "'residual' with ladder True")
        _require(not self.ladder or not self.sees_warp, self, "sees_warp", "False with ladder True")
        _require(self.mixtures >= 1, self, "mixtures", "a whole number from 1")
        _require(self.mixtures == 1 or self.output == "logistic", self, "mixtures", f"1 with output {self.output!r}")
        _require(self.autoregression >= 0, self, "autoregression", "a whole number from 0")
        allowed = ("bernoulli", "logistic")
        _require(
            not self.autoregression or self.output in allowed,
            self,
            "autoregression",
            f"0 with output {self.output!r}; or output {', '.join(allowed)}",
        )
        _require(self.autoregression_channels >= 1, self, "autoregression_channels", "a whole number from 1")
        _require(self.fill in FILLS, self, "fill", ", ".join(FILLS))
        _require(self.flat_channels >= 0, self, "flat_channels", "a whole number from 0")
        _require(self.branch_scale > 0, self, "branch_scale", "a number above 0")
        _require(self.output_channels >= 0, self, "output_channels", "a whole number from 0")
        _require(
            self.pixel_shuffle or not self.output_channels,
            self,
            "output_channels",
            "0 with pixel_shuffle False: there is no such layer",
        )

    @property
    def dims(self) -> int:
        """Values in one image."""
        return self.image_channels * self.image_size**2

    def paper(self) -> ModelConfig:
        """The same model with the paper's own modules (section 2.2), none of our changes."""
        return dataclasses.replace(
            self,
            mixtures=1,
            fill="mean",
            channel_coupling=False,
            merge_to_top_down=False,
            narrow_concat=False,
            bounded_latents=False,
            pixel_shuffle=False,
            flat_channels=0,
            branch_scale=1.0,
            output_channels=0,
            sees_warp=False,
        )


@dataclass(frozen=True)
class TrainConfig(_Config):
    """How a model is trained. Exactly one of `updates` and `minutes` bounds the run."""

    mask: str = "random3x20"  #: mask specification, one mask drawn per image and update
    fit: str = "crop"  #: how image files become squares, one of FITS
    batch: int = 32  #: images per update, over all processes together
    updates: int | None = None  #: length of the run in updates
    minutes: float | None = None  #: length of the run in minutes of training, pauses between resumes not counted
    seed: int = 0  #: of initial weights, order of images, masks, latent noise
    precision: str = "float32"  #: of the networks, one of PRECISIONS; densities and sums are always float32
    learning_rate: float = 4e-4  #: AdamW: biases, scales, output layers, small kernels
    muon_learning_rate: float = 0.006  #: Muon: kernels with 16 outputs or more; 0 gives every parameter to AdamW
    betas: tuple[float, float] = (0.9, 0.99)  #: AdamW's
    eps: float = 1e-6  #: AdamW's
    weight_decay: float = 0.2  #: Muon's, decoupled; without it kernels grow with every update until training diverges
    warmup: int = 100  #: updates over which the learning rate rises
    decay: float = 0.9  #: last share of the run over which the learning rate falls to zero, along a cosine
    kl_warmup: int = 300  #: updates over which the finest level's rate gains its weight; each coarser level takes twice
    prediction_weight: float = 1.0  #: of the squared error of predictions without the finer levels' z; 0 for none
    top_down_weight: float = 0.0  #: of the distortion without the local autoregression; falls to 0 in the run's course
    importance_samples: int = 1  #: of each image, whose bound is minimised; 1 is the free energy
    component_entropy: float = 0.0  #: penalty on each nat of uncertainty about the mixture component of a z_0
    own_samples_every: int = 0  #: updates from one step on the model's own samples (eq. 13) to the next; 0 for none
    own_samples_from: int = 0  #: the first update that such a step follows
    own_latents: bool = False  #: such a step rather raises q of the latents that a sample was drawn from (wake-sleep)
    inference_only: bool = False  #: train the inference stacks alone: p, and with it every sample, stays as it is
    ema: float = 0.998  #: decay of the averaged weights, those that are scored and shipped
    clip: float = 1.0  #: largest gradient norm (of the loss in nats per image value)
    skip: float = 10.0  #: an update whose gradient norm exceeds this many times the usual one is skipped
    hinted: float = 0.0  #: share of images whose hole is known at half the resolution, as when a large one is filled
    flip: bool = False  #: mirror images left to right at random
    warp: float = 0.0  #: turn, stretch, shear images at random, by up to this share of the distance from the centre
    warp_share: float = 1.0  #: share of images that `warp` is for
    most_val: int | None = None  #: how many validation images stay such; training has the others; None for all
    holdout: int = 512  #: held-out images scored at each evaluation
    checkpoint_minutes: float = 5.0  #: between checkpoints, evaluations on held-out images included

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.fit in FITS, self, "fit", ", ".join(FITS))
        _require(self.batch >= 1, self, "batch", "a whole number from 1")
        _require(
            (self.updates is None) != (self.minutes is None),
            self,
            "updates",
            "a number where minutes is None, None where minutes is a number",
        )
        _require(self.updates is None or self.updates >= 1, self, "updates", "a whole number from 1")
        _require(self.minutes is None or self.minutes > 0, self, "minutes", "a number above 0")
        _require(self.seed >= 0, self, "seed", "a whole number from 0")
        _require(self.precision in PRECISIONS, self, "precision", ", ".join(PRECISIONS))
        _require(self.learning_rate > 0, self, "learning_rate", "a number above 0")
        _require(self.muon_learning_rate >= 0, self, "muon_learning_rate", "a number from 0")
        _require(all(0 <= beta < 1 for beta in self.betas), self, "betas", "two numbers from 0 to below 1")
        _require(self.eps > 0, self, "eps", "a number above 0")
        _require(self.weight_decay >= 0, self, "weight_decay", "a number from 0")
        _require(self.warmup >= 0, self, "warmup", "a whole number from 0")
        _require(self.kl_warmup >= 0, self, "kl_warmup", "a whole number from 0")
        _require(self.prediction_weight >= 0, self, "prediction_weight", "a number from 0")
        _require(self.top_down_weight >= 0, self, "top_down_weight", "a number from 0")
        _require(1 <= self.importance_samples <= 1000, self, "importance_samples", "a whole number from 1 to 1000")
        _require(self.component_entropy >= 0, self, "component_entropy", "a number from 0")
        _require(self.own_samples_every >= 0, self, "own_samples_every", "a whole number from 0")
        _require(self.own_samples_from >= 0, self, "own_samples_from", "a whole number from 0")
        _require(
            self.own_samples_every > 0 or not self.own_latents, self, "own_latents", "false with own_samples_every 0"
        )
        _require(0 <= self.hinted <= 1, self, "hinted", "a number from 0 to 1")
        _require(0 <= self.warp <= 0.3, self, "warp", "a number from 0 to 0.3")
        _require(0 <= self.warp_share <= 1, self, "warp_share", "a number from 0 to 1")
        _require(0 <= self.decay <= 1, self, "decay", "a number from 0 to 1")
        _require(0 <= self.ema < 1, self, "ema", "a number from 0 to below 1")
        _require(self.clip > 0, self, "clip", "a number above 0")
        _require(self.skip > 1, self, "skip", "a number above 1")
        _require(self.most_val is None or self.most_val >= 1, self, "most_val", "None, or a whole number from 1")
        _require(self.holdout >= 1, self, "holdout", "a whole number from 1")
        _require(self.checkpoint_minutes > 0, self, "checkpoint_minutes", "a number above 0")

    def require_fit(self, model: ModelConfig) -> None:
        """ConfigError where a model cannot be trained like this."""
        _require(model.conditional or self.mask == "all", self, "mask", "'all' with an unconditional model")
        even = model.conditional and model.image_size % 2 == 0
        _require(even or not self.hinted, self, "hinted", "0 with an unconditional model, or one of an odd image_size")
        windows = model.image_size % 2 == 0 and model.image_size >= 8  # such as a photo is filled through
        _require(
            windows or self.fit != "patches", self, "fit", "'crop', 'squeeze' with an odd image_size, or one below 8"
        )
        _require(
            model.prior_components > 1 or not self.component_entropy,
            self,
            "component_entropy",
            f"0 with a model whose prior_components is {model.prior_components}",
        )
