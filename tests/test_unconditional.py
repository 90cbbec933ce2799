"""Unconditional MatNets and all their variants: they learn, generate, and are bounded as the mathematics has it."""

import itertools
import math

import pytest
import torch
from tiny import images, seeded_noise, tiny_config, tiny_model
from torch.distributions import Normal

from matfill.bounds import free_energy, iwae_bound, log_weight, module_rates
from matfill.checkpoint import load_weights, save_weights
from matfill.config import Level, TrainConfig
from matfill.distributions import GaussianMixture
from matfill.errors import MaskError
from matfill.layers import Conv2d
from matfill.model import MatNet
from matfill.stacks import Priors
from matfill.trainer import Trainer

DEEP = (Level(1, 6, 2), Level(2, 5, 2, modules=5), Level(4, 4, 1, modules=5))
FLAT = (Level(1, 6, 2, modules=4),)
VARIANTS = {
    "plain": {},
    "deep": {"levels": DEEP},
    "gru": {"update": "gru"},
    "fully connected": {"levels": FLAT, "update": "gru"},
    "fully connected, residual": {"levels": FLAT},
    "shared": {"levels": DEEP, "shared_modules": True, "branch_scale": 0.2},
    "shared gru": {"levels": FLAT, "shared_modules": True, "update": "gru"},
    "mixture": {"prior_components": 3},
    "mixture over maps": {"prior_components": 3, "levels": (Level(4, 4, 1, modules=2),)},
    "ladder": {"levels": DEEP, "ladder": True},
    "fully connected ladder": {"levels": FLAT, "ladder": True},
    "ladder, mixture": {"ladder": True, "prior_components": 2},
    "autoregression": {"autoregression": 2, "autoregression_channels": 4},
}
variants = pytest.mark.parametrize("variant", VARIANTS)
#: logistic pixels with every variant, and the other kinds where that may make a difference
with_outputs = pytest.mark.parametrize(
    ("variant", "output"),
    [(variant, "logistic") for variant in VARIANTS]
    + [("plain", "bernoulli"), ("plain", "gaussian"), ("autoregression", "bernoulli")],
)


def build(variant, **changes) -> MatNet:
    return tiny_model(conditional=False, **VARIANTS[variant] | changes)


def batch(output="logistic", count=4):
    return images(count, binary=output == "bernoulli"), torch.ones(count, 1, 8, 8, dtype=torch.bool)


def ones(model):
    return (1.0,) * len(model.config.levels)


@torch.no_grad()
def infer(model, x, missing, seed=0):
    return model(x, missing, seeded_noise(seed))


@torch.no_grad()
def sample(model, x, missing, seed=0):
    return model.sample(x, missing, seeded_noise(seed), ones(model))


# --- what every one of them does -------------------------------------------------------------------------------------


@with_outputs
@pytest.mark.parametrize("paper", [False, True])
def test_gradients_reach_every_parameter(variant, output, paper):
    model = build(variant, output=output, paper=paper)
    free_energy(model(*batch(output), seeded_noise())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@variants
def test_what_is_generated_depends_on_nothing_but_noise(variant):
    model = build(variant)
    x, missing = batch()
    for other in (1 - x, torch.full_like(x, torch.nan)):
        assert torch.equal(sample(model, x, missing), sample(model, other, missing))
    assert not torch.equal(sample(model, x, missing), sample(model, x, missing, seed=1))
    with torch.no_grad():
        trace = model.generate(x, missing, seeded_noise(), ones(model))
    assert trace.target is None and all(latent.q is None for latent in trace.latents)


@with_outputs
def test_samples_are_images(variant, output):
    model = build(variant, output=output)
    x, missing = batch(output, count=8)
    drawn = sample(model, x, missing)
    steps = 1 if output == "bernoulli" else 255
    assert drawn.shape == x.shape and drawn.min() >= 0 and drawn.max() <= 1
    torch.testing.assert_close((drawn * steps).round() / steps, drawn, rtol=0, atol=1e-7)
    assert free_energy(infer(model, drawn, missing)).isfinite().all()


@variants
def test_the_priors_side_of_inference_is_that_of_generation(variant):
    """p of each level, given the same z, does not notice x, whereas every q does."""

    def replay(x, infer):
        queue = iter([latent.z for latent in first.latents])
        with torch.no_grad():
            encoded = model.encode(x, missing, infer=infer)
            return model.decode(encoded, lambda level, p, q: next(queue), seeded_noise())

    model = build(variant)
    x, missing = batch()
    first = infer(model, x, missing)
    seen, alone = replay(1 - x, True), replay(x, False)
    assert isinstance(model.stages[0].generator, Priors)
    for a, b, c in zip(first.latents, seen.latents, alone.latents, strict=True):
        assert torch.equal(a.p.mean, b.p.mean) and torch.equal(a.p.stddev, b.p.stddev)
        assert torch.equal(a.p.mean, c.p.mean) and torch.equal(a.p.stddev, c.p.stddev)
        assert (a.q.mean != b.q.mean).flatten(1).any(1).all()
    if not model.autoregression:
        assert torch.equal(first.pixels.mean, alone.pixels.mean)


@variants
def test_the_first_prior_is_known_and_the_others_follow_from_what_came_before(variant):
    model = build(variant)
    first, *others = infer(model, *batch()).latents
    if model.config.prior_components > 1:
        assert isinstance(first.p, GaussianMixture)
    else:
        assert (first.p.mean == 0).all() and (first.p.stddev == 1).all()
    for latent in others:
        assert not torch.equal(latent.p.mean[0], latent.p.mean[1])


@variants
def test_half_precision_networks_agree_with_full(variant):
    model = build(variant)
    x, missing = batch(count=16)
    full = free_energy(infer(model, x, missing))
    with torch.autocast("cpu", torch.bfloat16):
        trace = infer(model, x, missing)
        half = free_energy(trace)
    assert half.dtype == torch.float32 and all(latent.z.dtype == torch.float32 for latent in trace.latents)
    torch.testing.assert_close(half, full, rtol=0.03, atol=0.3)


@variants
def test_weights_come_back_from_their_file(variant, tmp_path):
    model = build(variant)
    model.mean_image.uniform_()
    save_weights(tmp_path / "w.safetensors", model, {}, torch.float32)
    loaded, _ = load_weights(tmp_path / "w.safetensors")
    assert loaded.config == model.config
    x, missing = batch()
    assert torch.equal(sample(model, x, missing), sample(loaded, x, missing))
    assert torch.equal(free_energy(infer(model, x, missing)), free_energy(infer(loaded, x, missing)))


@pytest.mark.parametrize("infer", [False, True])
def test_what_is_observed_cannot_be_taken_into_account(infer):
    model = build("plain")
    x, missing = batch()
    missing[2, :, 3, 3] = False
    with pytest.raises(MaskError, match="unconditional"):
        model.encode(x, missing, infer=infer)


# --- variants --------------------------------------------------------------------------------------------------------


def test_shared_modules_are_one():
    shared, apart = build("shared"), build("deep")
    counts = [sum(p.numel() for p in model.parameters()) for model in (shared, apart)]
    assert counts[0] < 0.5 * counts[1]
    assert len(infer(shared, *batch()).latents) == len(infer(apart, *batch()).latents) == 11
    # the first prior of the second level stands for all five; z_0 needs none
    assert [len(modules) for modules in shared.stages[0].generator.levels] == [0, 1, 1]
    assert [len(modules) for modules in apart.stages[0].generator.levels] == [0, 5, 5]


def test_a_fully_connected_model_consists_of_linear_layers():
    for paper in (False, True):
        layers = [m for m in build("fully connected", paper=paper).modules() if isinstance(m, Conv2d)]
        assert layers and all(layer.kernel == 1 and layer.stride == 1 for layer in layers)


@pytest.mark.parametrize("variant", ["ladder", "fully connected ladder"])
def test_in_a_ladder_network_each_z_is_known_by_the_next_alone(variant):
    model = build(variant)
    x, missing = batch()
    with torch.no_grad():
        first = model.generate(x, missing, seeded_noise(), ones(model))

    def with_other(i):
        queue = iter([latent.z + (1 if j == i else 0) for j, latent in enumerate(first.latents)])
        with torch.no_grad():
            encoded = model.encode(x, missing, infer=False)
            return model.decode(encoded, lambda level, p, q: next(queue), seeded_noise())

    last = len(first.latents) - 1
    for i in range(last + 1):
        second = with_other(i)
        changed = [not torch.equal(a.p.mean, b.p.mean) for a, b in zip(first.latents, second.latents, strict=True)]
        assert changed == [j == i + 1 for j in range(last + 1)]
        assert torch.equal(first.pixels.mean, second.pixels.mean) == (i < last)


def test_eleven_latents_learn_together():
    """No update is lost, the bound falls steadily, and every parameter of every module has moved."""
    torch.manual_seed(0)
    levels = (Level(1, 8, 4), Level(2, 8, 2, modules=5), Level(4, 8, 2, modules=5))
    config = tiny_config(conditional=False, image_channels=1, output="bernoulli", levels=levels, branch_scale=0.25)
    train = TrainConfig(
        mask="all", batch=32, updates=30, prediction_weight=0.0, kl_warmup=5, warmup=5, learning_rate=1e-2, ema=0.9
    )
    trainer = Trainer(MatNet(config).train(), train, torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    patterns = (torch.rand(4, 1, 8, 8, generator=draw) < 0.5).byte() * 255
    missing = torch.ones(32, 1, 8, 8, dtype=torch.bool)
    bounds, before = [], {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for _ in range(30):
        sums, _ = trainer.step(patterns[torch.randint(0, 4, (32,), generator=draw)], missing)
        bounds.append(float(sums[1:].sum()) / 32)
    assert trainer.progress.skipped == 0
    assert min(bounds[:3]) > 43 and max(bounds[-5:]) < 39  # 64 log 2 is 44.4
    assert not any(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


# --- against the exact likelihood ------------------------------------------------------------------------------------

#: and by how much the weights behind z are multiplied, for it to have a say
EXACT = {
    "residual": ({}, 1.8),
    "gru": ({"update": "gru"}, 5),
    "ladder": ({"ladder": True}, 0.7),
    "mixture": ({"prior_components": 3}, 1.7),
    "autoregression": ({"autoregression": 2, "autoregression_channels": 4}, 1.7),
}


class Exact:
    """A model of 2x2 binary images with two scalar latents, integrated over a grid of both, for all 16 images."""

    missing = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).view(16, 1, 2, 2)

    def __init__(self, changes, scale):
        self.model = tiny_model(
            conditional=False,
            image_size=2,
            image_channels=1,
            output="bernoulli",
            levels=(Level(1, 8, 1, modules=2),),
            seed=2,
            **changes,
        ).requires_grad_(False)
        stage = self.model.stages[0]
        for part in (stage.path.levels, stage.output):
            for parameter in part.parameters():
                parameter.mul_(scale)
        if self.model.autoregression:
            self.model.autoregression.output.weight.mul_(4)
        self.log_p = [self.log_likelihood(x[None]) for x in self.every]

    def log_likelihood(self, x):
        """log p(x) of one image (1, 1, 2, 2)."""
        grid = torch.linspace(-6, 6, 81)
        step = float(grid[1] - grid[0])
        z_0, unit = (axis.reshape(-1, 1, 1, 1) for axis in torch.meshgrid(grid, grid, indexing="ij"))
        densities = []

        def source(level, p, q):
            if densities:  # z_1 in units of its own standard deviation
                densities.append(Normal(0, 1).log_prob(unit).flatten())
                return p.mean + unit * p.stddev
            densities.append(p.log_prob(z_0).flatten())
            return z_0

        count = len(z_0)
        encoded = self.model.encode(x.expand(count, -1, -1, -1), self.missing.expand(count, -1, -1, -1), infer=True)
        trace = self.model.decode(encoded, source, seeded_noise())
        log_p = trace.pixels.log_prob(trace.target).view(count, 4).sum(1) + sum(densities)
        return float(torch.logsumexp(log_p.double(), 0)) + 2 * math.log(step)

    def traces(self, x, count, batch, seed=0):
        noise = seeded_noise(seed)
        x, missing = x.expand(batch, -1, -1, -1), self.missing.expand(batch, -1, -1, -1)
        return (self.model(x, missing, noise) for _ in range(count))


@pytest.fixture(scope="module", params=EXACT)
def exact(request):
    return Exact(*EXACT[request.param])


def test_the_probabilities_of_all_images_sum_to_one(exact):
    probabilities = [math.exp(log_p) for log_p in exact.log_p]
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert max(probabilities) > 1.1 * min(probabilities)


@pytest.mark.parametrize("index", [2, 13])
def test_the_bounds_bound_the_exact_value(exact, index):
    x, truth = exact.every[index], -exact.log_p[index]
    (trace,) = exact.traces(x, 1, 4000)
    energies, weights = free_energy(trace), log_weight(trace)
    error = float((energies + weights).std()) / math.sqrt(4000)
    assert float(energies.mean()) > truth + 0.02  # the posterior is not known exactly
    assert float(energies.mean() + weights.mean()) > -4 * error  # equal, but for a mixture: there it is an upper bound
    if exact.model.config.prior_components == 1:
        assert float(energies.mean() + weights.mean()) < 4 * error
    bounds = [iwae_bound(exact.traces(x, k, 500, seed=k)) for k in (1, 8, 64)]
    errors = [4 * float(bound.std()) / math.sqrt(500) for bound in bounds]
    means = [float(bound.mean()) for bound in bounds]
    assert all(mean > truth - error for mean, error in zip(means, errors, strict=True))
    for i in (1, 2):  # falls with k, but for chance
        assert means[i] < means[i - 1] + errors[i - 1] + errors[i]
    assert means[-1] == pytest.approx(truth, abs=0.05)


def test_weights_average_to_the_exact_probability(exact):
    weights = torch.cat([log_weight(trace) for trace in exact.traces(exact.every[5], 10, 2000)]).double().exp()
    error = float(weights.std()) / math.sqrt(len(weights))
    assert float(weights.mean()) == pytest.approx(math.exp(exact.log_p[5]), abs=4 * error)
    assert error < 0.03 * float(weights.mean())


def test_samples_are_as_frequent_as_they_are_probable(exact):
    count = 20_000
    with torch.no_grad():
        noise, missing = seeded_noise(3), exact.missing.expand(count, -1, -1, -1)
        drawn = exact.model.sample(torch.full((count, 1, 2, 2), torch.nan), missing, noise, (1.0,))
    counts = torch.bincount((drawn.flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long(), minlength=16)
    expected = count * torch.tensor(exact.log_p).exp()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic < 15 + 4 * math.sqrt(30)  # chi-square with 15 degrees of freedom


def test_the_rate_of_a_mixture_is_an_upper_bound():
    exact = Exact(*EXACT["mixture"])
    (trace,) = exact.traces(exact.every[3], 1, 20_000)
    latent = trace.latents[0]
    ratios = latent.q.log_prob(latent.z).flatten() - latent.p.log_prob(latent.z)
    error = float(ratios.std()) / math.sqrt(len(ratios))
    assert float(module_rates(trace)[0].mean()) > float(ratios.mean()) - 4 * error
