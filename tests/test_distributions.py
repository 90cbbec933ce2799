"""Distributions of pixels: they sum to 1, agree with a direct formula, stay finite, and samples follow them."""

import itertools
import math

import numpy as np
import pytest
import torch
from tiny import tiny_config
from torch.distributions import Bernoulli, Normal, kl_divergence

from matfill.distributions import (
    PIXELS,
    BernoulliPixels,
    GaussianMixture,
    GaussianPixels,
    LogisticPixels,
    component_posterior,
    dequantise,
    to_uniform,
)

GRID = torch.arange(256) / 255
SHAPES = [(1, 1, False), (1, 3, False), (3, 1, False), (3, 1, True), (3, 3, False), (3, 3, True)]
logistics = pytest.mark.parametrize(("channels", "mixtures", "coupled"), SHAPES)


def build(raw, channels, mixtures, coupled, base=0.0):
    config = tiny_config(image_channels=channels, mixtures=mixtures, channel_coupling=coupled)
    return LogisticPixels(raw, torch.full((*raw.shape[:-1], channels), base), config)


def random_raw(channels, mixtures, coupled, rows, seed=0, log_scale=0.0):
    """Raw parameters (rows, P): means over all of [0, 1] and beyond, scales about exp(log_scale - 2.5)."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, mixtures, 1, generator=draw)
    means = torch.rand(rows, mixtures, channels, generator=draw) * 1.4 - 0.2
    log_scales = log_scale + 0.5 * torch.randn(rows, mixtures, channels, generator=draw)
    coupling = torch.randn(rows, mixtures, coupled * channels * (channels - 1) // 2, generator=draw)
    return torch.cat([logits, means, log_scales, coupling], dim=-1).flatten(1)


def crowded(channels, mixtures, coupled, rows=1):
    """Raw parameters (rows, P) that leave almost no mass outside bins 118 to 138 in any channel."""
    raw = random_raw(channels, mixtures, coupled, rows).unflatten(-1, (mixtures, -1))
    raw[..., 1 : 1 + channels] = 0.5 + 0.02 * (raw[..., 1 : 1 + channels] - 0.5)
    raw[..., 1 + channels : 1 + 2 * channels] = math.log(0.4 / 255) + 2.5
    raw[..., 1 + 2 * channels :] *= 0.3
    return raw.flatten(1)


def direct_log_prob(raw, x, channels, mixtures):
    """By the formula, in float64, of one pixel x (C,)."""
    total = 0.0
    for logit, *rest in raw.double().view(mixtures, -1).tolist():
        means, log_scales, coupling = rest[:channels], rest[channels : 2 * channels], iter(rest[2 * channels :])
        product = math.exp(logit)
        for c, value in enumerate(x):
            mean = means[c] + sum(next(coupling, 0.0) * (x[i] - means[i]) for i in range(c))
            scale = math.exp(max(log_scales[c] - 2.5, -7.0))
            edges = [(value - 0.5 / 255 - mean) / scale, (value + 0.5 / 255 - mean) / scale]
            if value == 0:
                edges[0] = -np.inf
            if value == 1:
                edges[1] = np.inf
            if sum(edges) > 0:  # the same mass, mirrored to where sigmoids do not round to 1
                edges = [-edges[1], -edges[0]]
            lower, upper = (0.0 if e == -np.inf else 1 / (1 + math.exp(-e)) for e in edges)
            product *= upper - lower
        total += product
    return math.log(total) - math.log(sum(math.exp(k[0]) for k in raw.double().view(mixtures, -1).tolist()))


@logistics
def test_the_parameter_count_is_what_the_distribution_takes(channels, mixtures, coupled):
    config = tiny_config(image_channels=channels, mixtures=mixtures, channel_coupling=coupled)
    count = LogisticPixels.parameters(config)
    assert count == random_raw(channels, mixtures, coupled, 1).shape[-1]
    assert build(torch.zeros(5, count), channels, mixtures, coupled).log_prob(torch.zeros(5, channels)).shape == (5,)


@pytest.mark.parametrize("mixtures", [1, 3])
@pytest.mark.parametrize("log_scale", [-6.0, 0.0, 5.0])
def test_256_bins_of_one_channel_sum_to_one(mixtures, log_scale):
    raw = random_raw(1, mixtures, False, rows=20, log_scale=log_scale)
    bins = build(raw[:, None].expand(-1, 256, -1), 1, mixtures, False).log_prob(GRID[None, :, None].expand(20, -1, -1))
    torch.testing.assert_close(bins.exp().sum(-1), torch.ones(20), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("mixtures", "coupled"), [(1, False), (1, True), (3, True)])
def test_bins_of_three_channels_sum_to_one(mixtures, coupled):
    pixels = torch.tensor(list(itertools.product(range(115, 141), repeat=3))) / 255
    raw = crowded(3, mixtures, coupled).expand(len(pixels), -1)
    total = build(raw, 3, mixtures, coupled).log_prob(pixels).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("mixtures", "coupled"), [(1, False), (1, True), (3, False), (3, True)])
def test_the_last_channel_sums_to_the_marginal_of_the_others(mixtures, coupled):
    """That is, to something that its own parameters have no part in."""

    def marginal(raw):
        return build(raw.expand(256, -1), 3, mixtures, coupled).log_prob(pixels).exp().sum()

    pixels = torch.cat([torch.tensor([0.3, 0.9]).expand(256, -1), GRID[:, None]], dim=-1)
    raw = random_raw(3, mixtures, coupled, rows=1)
    other = raw.clone().view(mixtures, -1)
    other[:, [3, 6]] += 0.7  # mean and log-scale of the last channel
    if coupled:
        other[:, 8:] -= 0.4
    assert float(marginal(raw)) == pytest.approx(float(marginal(other.view(1, -1))), rel=1e-4)


@logistics
def test_log_prob_agrees_with_the_direct_formula(channels, mixtures, coupled):
    raw = random_raw(channels, mixtures, coupled, rows=60, log_scale=-1.0)
    x = torch.randint(0, 256, (60, channels), generator=torch.Generator().manual_seed(1)) / 255
    x[:20] = x[:20].round()  # the edge bins
    found = build(raw, channels, mixtures, coupled).log_prob(x)
    grid = (x.double() * 255).round() / 255
    wanted = [direct_log_prob(r, v.tolist(), channels, mixtures) for r, v in zip(raw, grid, strict=True)]
    torch.testing.assert_close(found.double(), torch.tensor(wanted, dtype=torch.double), rtol=2e-4, atol=2e-4)


def test_means_are_counted_from_the_base():
    raw, x = random_raw(3, 1, True, rows=9), torch.rand(9, 3).mul(255).round() / 255
    moved = raw.clone()
    moved[:, 1:4] -= 0.25
    torch.testing.assert_close(build(moved, 3, 1, True, base=0.25).log_prob(x), build(raw, 3, 1, True).log_prob(x))


@logistics
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_parameters_give_finite_values_and_gradients(channels, mixtures, coupled, size):
    count = random_raw(channels, mixtures, coupled, 1).shape[-1]
    signs = torch.randint(-1, 2, (500, count), generator=torch.Generator().manual_seed(0))
    raw = (size * signs).requires_grad_()
    for value in (0.0, 128 / 255, 1.0):
        distribution = build(raw, channels, mixtures, coupled)
        log_prob = distribution.log_prob(torch.full((500, channels), value))
        (gradient,) = torch.autograd.grad(log_prob.sum(), raw)
        assert log_prob.isfinite().all() and (log_prob <= 1e-5).all()
        assert gradient.isfinite().all()


def test_gradients_agree_with_differences():
    raw = random_raw(3, 3, True, rows=4, log_scale=0.5).requires_grad_()
    x = torch.tensor([[0.0, 0.4, 1.0], [1.0, 0.0, 0.2], [100 / 255, 0.8, 0.6], [0.2, 0.2, 0.2]])
    (gradient,) = torch.autograd.grad(build(raw, 3, 3, True).log_prob(x).sum(), raw)
    step = 5e-3
    for i in range(raw.shape[-1]):
        with torch.no_grad():
            nudge = step * torch.eye(raw.shape[-1])[i]
            rise = build(raw + nudge, 3, 3, True).log_prob(x) - build(raw - nudge, 3, 3, True).log_prob(x)
        torch.testing.assert_close(gradient[:, i], rise / (2 * step), rtol=2e-2, atol=2e-2)


def chi_square(counts, probabilities):
    """How many standard deviations the statistic is off, cells of less than 5 expected taken together."""
    expected = probabilities * counts.sum()
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], max(expected[rare].sum(), 5))
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize(("mixtures", "log_scale"), [(1, 0.0), (3, -1.0), (3, 1.0)])
def test_samples_of_one_channel_follow_log_prob(mixtures, log_scale):
    raw = random_raw(1, mixtures, False, rows=1, seed=3, log_scale=log_scale)
    uniform = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(0))
    drawn = build(raw.expand(len(uniform), -1), 1, mixtures, False).sample(uniform)
    bins = build(raw.expand(256, -1), 1, mixtures, False).log_prob(GRID[:, None]).exp().double().numpy()
    counts = np.bincount((drawn[:, 0] * 255).round().long(), minlength=256)
    assert torch.equal(drawn[:, 0], GRID[(drawn[:, 0] * 255).round().long()])
    assert abs(chi_square(counts, bins)) < 4


@pytest.mark.parametrize(("mixtures", "coupled"), [(1, True), (3, False), (3, True)])
def test_samples_of_three_channels_follow_log_prob(mixtures, coupled):
    raw = crowded(3, mixtures, coupled)
    uniform = torch.rand(40_000, 4, generator=torch.Generator().manual_seed(0))
    drawn = build(raw.expand(len(uniform), -1), 3, mixtures, coupled).sample(uniform)
    cells = torch.tensor(list(itertools.product(range(115, 141), repeat=3)))
    bins = build(raw.expand(len(cells), -1), 3, mixtures, coupled).log_prob(cells / 255).exp().double().numpy()
    places = ((drawn * 255).round().long() - 115) @ torch.tensor([26 * 26, 26, 1])
    assert abs(chi_square(np.bincount(places, minlength=26**3), bins)) < 4


@logistics
def test_the_mean_is_the_mean_of_samples(channels, mixtures, coupled):
    raw = crowded(channels, mixtures, coupled)
    uniform = torch.rand(20_000, channels + 1, generator=torch.Generator().manual_seed(0))
    distribution = build(raw.expand(len(uniform), -1), channels, mixtures, coupled)
    drawn = distribution.sample(uniform)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - distribution.mean[0]).abs() < 4 * error).all()


def test_bernoulli_is_torchs():
    raw, draw = torch.randn(30, 3) * 4, torch.Generator().manual_seed(0)
    x = torch.randint(0, 2, (30, 3), generator=draw).float()
    pixels = BernoulliPixels(raw, torch.zeros(30, 3), tiny_config(output="bernoulli"))
    torch.testing.assert_close(pixels.log_prob(x), Bernoulli(logits=raw).log_prob(x).sum(-1))
    torch.testing.assert_close(pixels.mean, raw.sigmoid())


def test_bernoulli_samples_follow_the_mean():
    raw = torch.tensor([-2.0, 0.0, 1.5]).expand(20_000, -1)
    pixels = BernoulliPixels(raw, torch.zeros(20_000, 3), tiny_config(output="bernoulli"))
    drawn = pixels.sample(torch.rand(20_000, 4, generator=torch.Generator().manual_seed(0)))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), pixels.mean[0], rtol=0, atol=0.015)


@pytest.mark.parametrize("size", [1e2, 1e4])
@pytest.mark.parametrize("kind", [BernoulliPixels, GaussianPixels])
def test_other_extreme_parameters_give_finite_values_and_gradients(kind, size):
    config = tiny_config(output="bernoulli" if kind is BernoulliPixels else "gaussian")
    signs = torch.randint(-1, 2, (200, kind.parameters(config)), generator=torch.Generator().manual_seed(0))
    raw = (size * signs).requires_grad_()
    for value in (0.0, 1.0):
        log_prob = kind(raw, torch.zeros(200, 3), config).log_prob(torch.full((200, 3), value))
        (gradient,) = torch.autograd.grad(log_prob.sum(), raw)
        assert log_prob.isfinite().all() and gradient.isfinite().all()


def gaussian(mean, std, rows):
    """Every row the same, of one channel."""
    raw = torch.tensor([mean - 0.1, 2 * math.log(std) + 3.0]).expand(rows, -1)
    return GaussianPixels(raw, torch.full((rows, 1), 0.1), tiny_config(output="gaussian", image_channels=1))


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.1), (0.2, 0.003), (1.1, 0.3)])
def test_gaussian_bounds_the_8bit_probability(mean, std):
    """Over the noise of the dequantisation, the bound's exponential averages to the probability, itself to less."""
    uniform = (torch.arange(400) + 0.5) / 400
    for k in (0, 50, 51, 130, 255):
        y = dequantise(torch.full((400, 1), k / 255), uniform[:, None])
        bound = gaussian(mean, std, 400).log_prob(y).double()
        edges = Normal(mean, std).cdf(torch.tensor([k, k + 1]).double() / 256)
        probability = edges[1] - edges[0]
        if probability > 1e-12:
            assert float(bound.exp().mean()) == pytest.approx(float(probability), rel=1e-3)
            assert bound.mean() <= probability.log() + 1e-5


def test_gaussian_density_is_torchs_over_256_levels():
    y = torch.linspace(-0.5, 1.5, 50)[:, None]
    wanted = Normal(0.4, 0.2).log_prob(y)[:, 0] - math.log(256)
    torch.testing.assert_close(gaussian(0.4, 0.2, 50).log_prob(y), wanted)


def test_gaussian_samples_follow_it():
    drawn = gaussian(0.45, 0.07, 20_000).sample(torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0)))
    assert float(drawn.mean()) == pytest.approx(0.45, abs=0.002)
    assert float(drawn.std()) == pytest.approx(0.07, abs=0.002)


def test_gaussian_samples_are_of_8_bits_each_as_often_as_its_bin_has_mass():
    drawn = gaussian(0.45, 0.01, 40_000).sample(torch.rand(40_000, 2, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(GRID[(drawn[:, 0] * 255).round().long()], drawn[:, 0])
    edges = Normal(0.45, 0.01).cdf(torch.arange(257).double() / 256)
    counts = np.bincount((drawn[:, 0] * 255).round().long(), minlength=256)
    assert abs(chi_square(counts, (edges[1:] - edges[:-1]).numpy())) < 4


def test_dequantised_values_stay_in_their_bins():
    for u in (0.0, 0.5, 0.999):
        y = dequantise(GRID, torch.full((256,), u))
        assert torch.equal((y * 256).floor(), torch.arange(256.0))


@pytest.mark.parametrize("output", PIXELS)
def test_networks_of_half_precision_get_full_precision_densities(output):
    config = tiny_config(output=output)
    kind = PIXELS[output]
    raw = torch.randn(7, kind.parameters(config), dtype=torch.bfloat16)
    pixels = kind(raw, torch.zeros(7, 3, dtype=torch.bfloat16), config)
    assert pixels.log_prob(torch.zeros(7, 3)).dtype == torch.float32
    assert pixels.mean.dtype == torch.float32


@pytest.mark.parametrize("output", PIXELS)
def test_no_rows_are_no_trouble(output):
    config = tiny_config(output=output)
    kind = PIXELS[output]
    pixels = kind(torch.zeros(0, kind.parameters(config)), torch.zeros(0, 3), config)
    assert pixels.log_prob(torch.zeros(0, 3)).shape == (0,)
    assert pixels.sample(torch.zeros(0, 4)).shape == pixels.mean.shape == (0, 3)


# --- the mixture over z_0 --------------------------------------------------------------------------------------------


def mixture(components=3, batch=4, seed=0, spread=1.0):
    """Over z (2, 3, 3)."""
    draw = torch.Generator().manual_seed(seed)
    means = spread * torch.randn(components, 2, 3, 3, generator=draw)
    return GaussianMixture(means, torch.rand(components, 2, 3, 3, generator=draw) + 0.3, batch)


def posterior(batch=4, seed=9):
    draw = torch.Generator().manual_seed(seed)
    shape = (batch, 2, 3, 3)
    return Normal(torch.randn(shape, generator=draw), torch.rand(shape, generator=draw) + 0.2, validate_args=False)


def monte_carlo_kl(q, p, count=20_000):
    """Means over samples and their standard errors, (B,) each."""
    torch.manual_seed(0)
    z = q.sample((count,))
    wide = GaussianMixture(p.normals.mean[0], p.normals.stddev[0], z[:, :, 0, 0, 0].numel())
    ratios = q.log_prob(z).flatten(2).sum(2) - wide.log_prob(z.flatten(0, 1)).view(z.shape[:2])
    return ratios.mean(0), ratios.std(0) / math.sqrt(count)


def test_a_mixtures_density_is_the_mean_of_its_components():
    p, z = mixture(), posterior().sample()
    each = [Normal(p.normals.mean[:, i], p.normals.stddev[:, i]).log_prob(z).sum((1, 2, 3)).exp() for i in range(3)]
    torch.testing.assert_close(p.log_prob(z).exp(), sum(each) / 3)
    assert p.mean.shape == p.stddev.shape == z.shape


def test_equation_12_is_exact_for_one_component():
    p, q = mixture(1), posterior()
    found = kl_divergence(q, p)
    wanted = kl_divergence(q, Normal(p.normals.mean[:, 0], p.normals.stddev[:, 0])).sum((1, 2, 3))
    torch.testing.assert_close(found, wanted)
    sampled, error = monte_carlo_kl(q, p)
    assert ((found - sampled).abs() < 4 * error).all()


def test_equation_12_is_exact_for_equal_components():
    one, q = mixture(1), posterior()
    p = GaussianMixture(*(t[0].expand(5, -1, -1, -1) for t in (one.normals.mean, one.normals.stddev)), batch=4)
    found = kl_divergence(q, p)
    torch.testing.assert_close(found, kl_divergence(q, one))
    sampled, error = monte_carlo_kl(q, p)
    assert ((found - sampled).abs() < 4 * error).all()


def test_equation_12_is_exact_in_the_limit_of_components_far_apart():
    p = mixture(4, spread=300.0)
    q = Normal(p.normals.mean[:, 2] + 0.1, p.normals.stddev[:, 2] * 0.7, validate_args=False)
    found = kl_divergence(q, p)
    alone = kl_divergence(q, Normal(p.normals.mean[:, 2], p.normals.stddev[:, 2])).sum((1, 2, 3))
    torch.testing.assert_close(found, alone + math.log(4))
    sampled, error = monte_carlo_kl(q, p)
    assert ((found - sampled).abs() < 4 * error + 1e-3).all()


@pytest.mark.parametrize("spread", [0.1, 0.5, 2.0])
def test_equation_12_is_never_below_the_kl_divergence(spread):
    p, q = mixture(6, spread=spread), posterior()
    sampled, error = monte_carlo_kl(q, p)
    assert (kl_divergence(q, p) > sampled - 4 * error).all()


@pytest.mark.parametrize(("apart", "printed", "exact"), [(0.0, 0.0, 0.0), (1.0, 0.50, 0.125), (2.0, 2.00, 0.943)])
def test_the_error_of_equation_12_is_as_its_docstring_says(apart, printed, exact):
    """q = N(0, 1), components N(-d, 1) and N(d, 1); the exact value by integration."""
    means = torch.tensor([-apart, apart]).view(2, 1, 1, 1)
    q = Normal(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), validate_args=False)
    assert float(kl_divergence(q, GaussianMixture(means, torch.ones(2, 1, 1, 1), 1))) == pytest.approx(
        printed, abs=1e-5
    )
    z = torch.linspace(-12, 12, 4001).view(-1, 1, 1, 1)
    log_q = Normal(0.0, 1.0).log_prob(z).flatten()
    log_p = GaussianMixture(means, torch.ones(2, 1, 1, 1), len(z)).log_prob(z)
    assert float(torch.trapezoid(log_q.exp() * (log_q - log_p), z.flatten())) == pytest.approx(exact, abs=1e-3)


def test_the_posterior_over_components_makes_equation_12_least():
    """KL(q(z) r(i) || p_i(z) / k) over r."""
    p, q = mixture(3, spread=0.3), posterior()
    kls = torch.stack(
        [kl_divergence(q, Normal(p.normals.mean[:, i], p.normals.stddev[:, i])) for i in range(3)], dim=-1
    )
    kls = kls.sum((1, 2, 3))

    def joint(r):
        return (r * (r.log() + math.log(3) + kls)).sum(1)

    best = component_posterior(q, p).probs
    torch.testing.assert_close(joint(best), kl_divergence(q, p))
    for seed in range(20):
        torch.manual_seed(seed)
        assert (joint(torch.randn(4, 3).softmax(1)) >= joint(best)).all()


def test_every_component_is_picked_as_often_and_by_its_own_image():
    p = mixture(5, batch=1000)
    picked = p.pick(to_uniform(torch.randn(1000, generator=torch.Generator().manual_seed(0))))
    which = (picked.mean[:, None] == p.normals.mean).flatten(2).all(2)
    assert (which.sum(1) == 1).all() and (which.sum(0) > 140).all()
    torch.testing.assert_close(picked.stddev, p.normals.stddev[which])
    for edge in (0.0, 1.0):
        assert torch.equal(p.pick(torch.full((1000,), edge)).mean[0], p.normals.mean[0, 4 if edge else 0])


def test_to_uniform_is_the_normal_cdf():
    noise = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(to_uniform(noise), Normal(0.0, 1.0).cdf(noise))
