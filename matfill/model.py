"""The MatNet: unconditional, or conditional in one stage or two, a guess and its refinement (sections 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matfill.autoregression import LocalAutoregression
from matfill.config import ModelConfig
from matfill.distributions import PIXELS, PixelDistribution, dequantise, to_uniform
from matfill.errors import ConfigError, MaskError
from matfill.layers import ImageOutput, side_by_side
from matfill.noise import Noise
from matfill.stacks import (
    GeneratorStack,
    InferenceStack,
    Latent,
    LatentSource,
    Priors,
    States,
    TopDownPath,
    descend,
    from_posterior,
    from_prior,
)


@dataclass(frozen=True)
class Trace:
    """One pass through a model: every z with its p and q, and the distribution of the missing pixels.

    `pixels` has one row for each missing pixel of the batch, in row-major order of `missing` (B, 1, H, W); `target`
    (rows, C) holds the true values (dequantised for a Gaussian output), and is None where nothing was inferred.
    `drawn` (B, C, H, W) is what a local autoregression has drawn instead, pixel by pixel; every row of `pixels` is then
    given the drawn ones before it. `top_down` are the pixels by the top-down output alone.
    """

    latents: tuple[Latent, ...]
    pixels: PixelDistribution
    missing: Tensor
    target: Tensor | None
    top_down: PixelDistribution
    drawn: Tensor | None = None


def push_pull(x: Tensor, missing: Tensor) -> Tensor:
    """Fill the missing pixels smoothly from the observed ones: average down an image pyramid, fill on the way up.

    x (B, C, H, W), missing (B, 1, H, W) bool -> (B, C, H, W), equal to x where observed, whatever x holds elsewhere;
    an image with nothing observed comes out at 0.5. (Gortler et al. 1996, "The Lumigraph", section 3.6.)
    """
    if x.shape[-2:] == (1, 1):
        return torch.where(missing, 0.5, x)
    x = torch.where(missing, 0, x)
    window = [min(2, side) for side in x.shape[-2:]]
    known = F.avg_pool2d((~missing).to(x.dtype), window, ceil_mode=True, count_include_pad=False)
    coarse = F.avg_pool2d(x, window, ceil_mode=True, count_include_pad=False) / known.clamp_min(1e-6)
    coarse = push_pull(coarse, known == 0)
    filled = F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(missing, filled, x)


@dataclass(frozen=True)
class Hint:
    """What is known of a hole from an image of half the resolution, where that is filled already."""

    image: Tensor  #: (B, C, H, W), such as `enlarge_twice` makes
    there: Tensor  #: bool (B, 1, H, W), where it says something


def halve(x: Tensor) -> Tensor:
    """(B, C, H, W) at half the resolution; H and W are even."""
    return F.avg_pool2d(x, 2)


def enlarge_twice(x: Tensor) -> Tensor:
    """(B, C, H, W) at twice the resolution, smoothly."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Encoded:
    """What a pass computes before it meets the first latent: all of it serves for any number of samples."""

    x: Tensor  #: (B, C, H, W); looked at where it is missing only by what `infer` adds
    missing: Tensor
    unknown: Tensor  #: float (B, 1, H, W): 1 where missing, 0.5 where a hint says something, else 0
    filled: Tensor  #: x with something simple in the hole
    infer: bool  #: whether the inference stacks take part
    seen: Tensor | None  #: what the first stage sees; None where the model is unconditional
    states: tuple[States | None, States | None]  #: of the first stage's generator and inference stack
    look: Tensor | None  #: the local autoregression's, at the true image
    warp: Tensor | None  #: how each image was warped, (B, WARP_VALUES); None where none was


class Stage(nn.Module):
    """One MatNet: generator (a stack, or Priors) and inference stack around a shared top-down path.

    Its output is the raw parameters of the pixels' distributions, and `features` channels more where there is a local
    autoregression to see them.
    """

    def __init__(self, config: ModelConfig, features: int):
        super().__init__()
        seen = config.image_channels + 1 if config.conditional else 0  # image with its hole filled, missing
        self.generator = GeneratorStack(seen, config) if config.conditional else Priors(config)
        self.inference = InferenceStack(seen + config.image_channels, config)
        self.path = TopDownPath(config)
        self.output = ImageOutput(seen, PIXELS[config.output].parameters(config) + features, config)

    def encode(self, seen: Tensor | None, x: Tensor | None) -> tuple[States | None, States | None]:
        """Bottom-up states of the generator stack, where there is one, and of the inference stack, given the true x."""
        images = [] if seen is None else [seen]
        return (
            None if seen is None else self.generator.bottom_up(seen),
            None if x is None else self.inference.bottom_up(side_by_side(*images, 2 * x - 1)),
        )

    def decode(
        self,
        batch: int,
        seen: Tensor | None,
        states: tuple[States | None, States | None],
        source: LatentSource,
        stage: int,
        warp: Tensor | None,
    ) -> tuple[Tensor, list[Latent]]:
        """Output (B, P + features, H, W) and the stage's latents."""
        generator, inference = states
        h_td, latents = descend(
            self.path,
            batch,
            self.generator.start(generator),
            source,
            stage=stage,
            warp=warp,
            inference=self.inference.start(inference) if inference else None,
        )
        return self.output(h_td, seen), latents


class MatNet(nn.Module):
    """p(x^u | x^k) of eq. 3, or p(x) of eq. 1, where the configuration says conditional=False.

    Images x (B, C, H, W) are in [0, 1]; `missing` (B, 1, H, W) is True where x is unknown, all over for an
    unconditional model. With two stages, the second sees the first one's mean in the hole, and their output parameters
    add up. `mean_image` (C, H, W), the training mean, stands in the hole where the configuration says fill="mean".
    With a Hint it is p(x^u | x^k, hint): how a hole too large for one look is filled, octave by octave.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.parameters_per_pixel = PIXELS[config.output].parameters(config)
        features = config.autoregression_channels if config.autoregression else 0
        self.stages = nn.ModuleList(Stage(config, features) for _ in range(config.stages))
        self.autoregression = (
            LocalAutoregression(self.parameters_per_pixel + features, self.parameters_per_pixel, config)
            if config.autoregression
            else None
        )
        size = config.image_size
        self.register_buffer("mean_image", torch.full((config.image_channels, size, size), 0.5))

    def fill(self, x: Tensor, missing: Tensor, hint: Hint | None = None) -> Tensor:
        """x with something simple in the hole, (B, C, H, W), a function of the observed pixels and the hint only."""
        if hint:
            x, missing = torch.where(missing & hint.there, hint.image, x), missing & ~hint.there
        if self.config.fill == "mean":
            return torch.where(missing, self.mean_image.to(x.dtype), x)
        return push_pull(x, missing)

    def encode(
        self, x: Tensor, missing: Tensor, *, infer: bool, hint: Hint | None = None, warp: Tensor | None = None
    ) -> Encoded:
        """All that does not depend on a latent. Only with `infer` is x looked at where it is missing.

        `warp` (B, WARP_VALUES) says of images of training how each was warped: 1 where it was, else 0, and the entries
        of its linear map less the identity's, in tenths. It makes a difference to models that see it (`sees_warp`).
        MaskError where the model is unconditional and not all is missing.
        """
        conditional = self.config.conditional
        if not conditional and not missing.all():
            raise MaskError("this model is unconditional: it cannot go by what is observed; use one that fills holes")
        filled = self.fill(x, missing, hint)
        unknown = missing.to(x.dtype)
        if hint:
            unknown = torch.where(hint.there, unknown / 2, unknown)
        seen = _seen(filled, unknown) if conditional else None
        states = self.stages[0].encode(seen, x if infer else None)
        look = self.autoregression.look(x) if infer and self.autoregression else None
        return Encoded(x, missing, unknown, filled, infer, seen, states, look, warp)

    def decode(self, encoded: Encoded, source: LatentSource, noise: Noise, *, autoregress: bool = True) -> Trace:
        """One sample of all latents, and the distribution of the missing pixels.

        With `autoregress`, that is of each pixel given those before it: the true ones where `encoded` knows them, else
        ones drawn here. Without, a local autoregression is left out, and what the latents alone say is left.
        """
        x, missing = encoded.x, encoded.missing
        output: Tensor | None = None
        latents: list[Latent] = []
        seen, states = encoded.seen, encoded.states
        for number, stage in enumerate(self.stages):
            if number:
                guess = self._pixels(self._raw(output).movedim(1, -1), encoded.filled.movedim(1, -1))
                guess = guess.mean.movedim(-1, 1).clamp(0, 1)
                seen = _seen(torch.where(missing, guess, x), encoded.unknown)
                states = stage.encode(seen, x if encoded.infer else None)
            update, found = stage.decode(len(x), seen, states, source, number, encoded.warp)
            output = update if output is None else output + update
            latents += found
        chosen = missing.flatten().nonzero()[:, 0] if self.config.conditional else None
        target = _rows(x, chosen) if encoded.infer else None
        if encoded.infer and self.config.output == "gaussian":
            target = dequantise(target, to_uniform(noise(target.shape)))
        raw, base, drawn = self._raw(output), _rows(encoded.filled, chosen), None
        pixels = top_down = self._pixels(_rows(raw, chosen), base)
        if self.autoregression and autoregress:
            if encoded.infer:
                raw = raw + self.autoregression(output, encoded.look)
            else:
                drawn, raw = self._draw_pixels(output, encoded, noise)
            pixels = self._pixels(_rows(raw, chosen), base)
        return Trace(tuple(latents), pixels, missing, target, top_down, drawn)

    def _draw_pixels(self, output: Tensor, encoded: Encoded, noise: Noise) -> tuple[Tensor, Tensor]:
        """x with its missing pixels drawn one by one, and raw parameters (B, P, H, W) given the ones before each."""
        x = encoded.x
        uniform = self._uniform(x, noise)
        base = encoded.filled.flatten(2).mT

        def draw(raw: Tensor, places: Tensor) -> Tensor:
            return self._pixels(raw, base[:, places]).sample(uniform[:, places])

        return self.autoregression.sample(output, self._raw(output), x, encoded.missing, draw)

    def _uniform(self, x: Tensor, noise: Noise) -> Tensor:
        """Uniform noise to draw all pixels of x from, (B, H W, C + 1)."""
        return to_uniform(noise((len(x), x[0, 0].numel(), x.shape[1] + 1)))

    def _raw(self, output: Tensor) -> Tensor:
        """The raw parameters (B, P, H, W) in a stage's output; the features for an autoregression are left aside."""
        return output[:, : self.parameters_per_pixel]

    def _pixels(self, raw: Tensor, base: Tensor) -> PixelDistribution:
        """Of pixels with raw parameters (..., P) and the filled image's values (..., C)."""
        return PIXELS[self.config.output](raw, base, self.config)

    def forward(self, x: Tensor, missing: Tensor, noise: Noise, hint: Hint | None = None) -> Trace:
        """z from q: for training and scoring (see bounds.py)."""
        return self.decode(self.encode(x, missing, infer=True, hint=hint), from_posterior(noise), noise)

    def generate(
        self, x: Tensor, missing: Tensor, noise: Noise, temperature: tuple[float, ...], hint: Hint | None = None
    ) -> Trace:
        """z from p, each level at its own temperature, coarsest first; x is not looked at where it is missing."""
        return self.decode(self.encode(x, missing, infer=False, hint=hint), from_prior(noise, temperature), noise)

    def sample(self, x: Tensor, missing: Tensor, noise: Noise, temperature: tuple[float, ...]) -> Tensor:
        """x (B, C, H, W) with its missing pixels drawn, 8-bit or binary values: z from p, then pixels given z."""
        return self.draw(x, self.generate(x, missing, noise, temperature), noise)

    def draw(self, x: Tensor, trace: Trace, noise: Noise) -> Tensor:
        """x (B, C, H, W) with its missing pixels drawn given the latents of a trace that saw none of them."""
        if trace.drawn is not None:
            return trace.drawn
        where = trace.missing[:, 0]
        return _paste(x, where, trace.pixels.sample(self._uniform(x, noise)[where.flatten(1)]))

    def compose(self, x: Tensor, trace: Trace) -> Tensor:
        """x (B, C, H, W) with the mean of the pixel distributions where it is missing, clamped to [0, 1]."""
        return _paste(x, trace.missing[:, 0], trace.pixels.mean.clamp(0, 1))

    def inference_parameters(self) -> list[nn.Parameter]:
        """Those of q alone: p, and with it every likelihood, is a function of all the others."""
        return [parameter for stage in self.stages for parameter in stage.inference.parameters()]


def _seen(filled: Tensor, unknown: Tensor) -> Tensor:
    """What a stage sees, (B, C + 1, H, W), from -1 to 1."""
    seen = torch.cat([2 * filled - 1, 2 * unknown - 1], dim=1)
    return seen.contiguous(memory_format=torch.channels_last)


def _rows(maps: Tensor, chosen: Tensor | None) -> Tensor:
    """Maps (B, C, H, W) as rows (B H W, C), or those rows alone whose numbers are in `chosen` (rows,)."""
    rows = maps.movedim(1, -1).flatten(0, 2)
    return rows if chosen is None else rows.index_select(0, chosen)


def _paste(x: Tensor, where: Tensor, rows: Tensor) -> Tensor:
    """x (B, C, H, W) with other values (rows, C) at the pixels that `where` (B, H, W) selects."""
    out = x.movedim(1, -1).clone()
    out[where] = rows.to(out.dtype)
    return out.movedim(-1, 1)


@torch.no_grad()
def take_over(model: MatNet, start: MatNet) -> None:
    """Set the parameters of `model` to those of `start` wherever both have them; the others stay as they are.

    Of a layer with more outputs in one of them, the first ones are taken over: so an autoregression's features are
    added to a model's output, or left aside, and channels to the layer before it or to the autoregression, which what
    was there does not look at to begin with. ConfigError where anything else differs in shape, or the parameters of a
    pixel's distribution, which come first, in number.
    """
    given, wanted = start.state_dict(), model.state_dict()
    if model.parameters_per_pixel != start.parameters_per_pixel:
        raise ConfigError(
            f"the weights to start from have {start.parameters_per_pixel} parameters for each pixel, and the model "
            f"that --set describes {model.parameters_per_pixel}; leave output and mixtures as they are"
        )
    for name in (name for name in wanted if name in given):
        tensor, known = wanted[name], given[name]
        hidden = name.replace("output.conv.weight", "output.hidden.weight")
        before_output = hidden != name and hidden in wanted and hidden in given
        if before_output or (name.startswith("autoregression.") and name.endswith(".weight")):
            taps = model.get_submodule(name.removesuffix(".weight")).taps
            tensor, known = (weight.unflatten(1, (taps, -1)) for weight in (tensor, known))
            tensor[: len(known), :, known.shape[2] :] = 0  # what these outputs make of channels that were not there
        elif tensor.shape[1:] != known.shape[1:]:
            raise ConfigError(
                f"{name} is {tuple(known.shape)} in the weights to start from, and {tuple(tensor.shape)} in the model "
                "that --set describes; only parts can be added to it or left out, such as an autoregression"
            )
        shared = tuple(slice(min(sizes)) for sizes in zip(tensor.shape, known.shape, strict=True))
        tensor[shared] = known[shared]
