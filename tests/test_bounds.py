"""Bounds: their parts against closed forms, and all of them against a model small enough to be integrated."""

import itertools
import math

import pytest
import torch
from tiny import holes, images, seeded_noise, tiny_model
from torch.distributions import Normal

from matfill.bounds import bits_per_dim, distortion, free_energy, iwae_bound, log_weight, missing_dims, rate, rates
from matfill.config import OUTPUTS, Level
from matfill.errors import MatfillError
from matfill.model import Trace
from matfill.stacks import Latent


class Weighing:
    """Pixels whose -log p is the sum of their values: what a distortion adds up can be read off the image."""

    def log_prob(self, target):
        return -target.sum(-1)


def latent(stage, level, size, batch=3, seed=0):
    """Random q and p (batch, 2, size, size), z drawn from q."""
    draw = torch.Generator().manual_seed(seed + 10 * level + 100 * stage)
    shape = (batch, 2, size, size)
    q, p = (
        Normal(torch.randn(shape, generator=draw), torch.rand(shape, generator=draw) + 0.2, validate_args=False)
        for _ in range(2)
    )
    return Latent(stage, level, q.mean + q.stddev * torch.randn(shape, generator=draw), p, q)


def trace_of(latents, x, missing):
    return Trace(tuple(latents), Weighing(), missing, x.movedim(1, -1)[missing[:, 0]], Weighing())


def closed_form_kl(q, p):
    m, s, n, t = (v.double() for v in (q.mean, q.stddev, p.mean, p.stddev))
    return (torch.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum((1, 2, 3))


# --- parts -----------------------------------------------------------------------------------------------------------


def test_distortion_sums_over_the_missing_pixels_of_each_image():
    x, missing = images(6), holes(6)
    missing[2] = False
    missing[4] = True
    found = distortion(trace_of([], x, missing))
    assert found.shape == (6,)
    for i in range(6):
        assert float(found[i]) == pytest.approx(float(x[i, :, missing[i, 0]].sum()), rel=1e-5)


def test_distortion_does_not_look_at_what_is_observed():
    x, missing = images(6), holes(6)
    other = torch.where(missing, x, torch.nan)
    assert torch.equal(distortion(trace_of([], x, missing)), distortion(trace_of([], other, missing)))


@pytest.mark.parametrize("output", OUTPUTS)
def test_each_image_has_its_own_rows(output):
    """An image's distortion is the same alone as in a batch of other holes."""
    model = tiny_model(output=output)
    x, missing = images(5, binary=output == "bernoulli"), holes(5)
    with torch.no_grad():
        together = distortion(model(x, missing, torch.zeros))
        alone = [distortion(model(x[i : i + 1], missing[i : i + 1], torch.zeros)) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-3)


def test_rates_are_kl_divergences_by_stage_and_level():
    latents = [latent(0, 0, 1), latent(0, 1, 2), latent(0, 1, 2, seed=5), latent(1, 0, 1), latent(1, 1, 2)]
    trace = trace_of(latents, images(3), holes(3))
    kl = [closed_form_kl(a.q, a.p) for a in latents]
    wanted = {(0, 0): kl[0], (0, 1): kl[1] + kl[2], (1, 0): kl[3], (1, 1): kl[4]}
    found = rates(trace)
    assert list(found) == list(wanted)
    for key in wanted:
        torch.testing.assert_close(found[key].double(), wanted[key], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(rate(trace).double(), sum(kl), rtol=1e-5, atol=1e-4)


def test_rates_agree_with_monte_carlo():
    one = latent(0, 0, 2, batch=1)
    q, p = (Normal(n.mean.expand(100_000, -1, -1, -1), n.stddev) for n in (one.q, one.p))
    torch.manual_seed(0)
    z = q.sample()
    ratios = (q.log_prob(z) - p.log_prob(z)).sum((1, 2, 3))
    error = ratios.std() / math.sqrt(len(ratios))
    assert abs(ratios.mean() - rate(trace_of([one], images(1), holes(1)))[0]) < 4 * error


def test_a_rate_of_nothing_learnt_is_nothing():
    one = latent(0, 0, 2)
    same = Latent(0, 0, one.z, one.q, one.q)
    assert (rate(trace_of([same], images(3), holes(3))) == 0).all()


def test_free_energy_is_distortion_plus_rate():
    trace = trace_of([latent(0, 0, 1), latent(0, 1, 4)], images(3), holes(3))
    torch.testing.assert_close(free_energy(trace), distortion(trace) + rate(trace))
    assert free_energy(trace).shape == (3,)


def test_log_weight_is_log_p_minus_log_q():
    one, x, missing = latent(0, 0, 1, batch=2), images(2), holes(2)
    found = log_weight(trace_of([one], x, missing))
    for i in range(2):
        wanted = -float(x[i, :, missing[i, 0]].sum())
        for j in range(2):
            z, q, p = (float(t[i, j, 0, 0]) for t in (one.z, one.q.mean, one.p.mean))
            s, t = float(one.q.stddev[i, j, 0, 0]), float(one.p.stddev[i, j, 0, 0])
            wanted += 0.5 * ((z - q) / s) ** 2 + math.log(s) - 0.5 * ((z - p) / t) ** 2 - math.log(t)
        assert float(found[i]) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("paper", [False, True])
def test_minus_log_weight_averages_to_the_free_energy(output, paper):
    model = tiny_model(output=output, paper=paper)
    x = images(1, binary=output == "bernoulli").expand(2000, -1, -1, -1)
    with torch.no_grad():
        trace = model(x, holes(1).expand(2000, -1, -1, -1), seeded_noise())
    difference = log_weight(trace) + free_energy(trace)
    error = difference.std() / math.sqrt(len(difference))
    assert difference.std() > 0.01
    assert abs(difference.mean()) < 4 * error


def test_iwae_bound_is_minus_the_log_of_the_mean_weight():
    x, missing = images(3), holes(3)
    traces = [trace_of([latent(0, 0, 1, seed=seed)], x, missing) for seed in range(4)]
    weights = torch.stack([log_weight(trace).double() for trace in traces])
    largest = weights.max(0).values
    wanted = -(largest + (weights - largest).exp().mean(0).log())
    torch.testing.assert_close(iwae_bound(iter(traces)).double(), wanted, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(iwae_bound(traces[:1]), -log_weight(traces[0]))
    torch.testing.assert_close(iwae_bound([traces[0]] * 7), -log_weight(traces[0]))


def test_bounds_need_what_they_bound():
    x, missing = images(3), holes(3)
    generated = tiny_model().generate(x, missing, seeded_noise(), (1.0, 1.0, 1.0))
    for bound in (distortion, free_energy, log_weight, lambda trace: iwae_bound([trace])):
        with pytest.raises(MatfillError):
            bound(generated)
    with pytest.raises(MatfillError, match="at least one"):
        iwae_bound([])


@pytest.mark.parametrize("channels", [1, 3])
def test_missing_dims_counts_channels(channels):
    missing = holes(4)
    trace = tiny_model(image_channels=channels).generate(images(4, channels), missing, torch.zeros, (0.0, 0.0, 0.0))
    assert missing_dims(trace).tolist() == [channels * int(hole.sum()) for hole in missing]


def test_bits_per_dim_weighs_images_by_what_they_miss():
    nats, dims = torch.tensor([30.0, 10.0]) * math.log(2), torch.tensor([10, 30])
    assert float(bits_per_dim(nats, dims)) == pytest.approx(1.0)


# --- against the exact likelihood ------------------------------------------------------------------------------------


class Exact:
    """A model of 2x2 binary images with a single, scalar z, whose likelihood is integrated over a fine grid of z."""

    x = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    missing = torch.tensor([[[[False, True], [True, True]]]])

    def __init__(self):
        self.model = tiny_model(
            image_size=2, image_channels=1, output="bernoulli", stages=1, levels=(Level(1, 8, 1),), seed=2
        ).requires_grad_(False)
        stage = self.model.stages[0]
        for module in (stage.path, stage.output):  # z has a large say
            for parameter in module.parameters():
                parameter.mul_(3)

    def fillings(self):
        """All eight images that agree where they are observed."""
        values = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
        x = self.x.repeat(8, 1, 1, 1)
        x[self.missing.expand_as(x)] = values.flatten()
        return x

    def log_likelihood(self, x):
        """log p(x^u | x^k) of one image (1, 1, 2, 2), by integration over z in float64."""
        grid = torch.linspace(-9, 9, 4001, dtype=torch.double)[:, None, None, None]
        many, hole = x.expand(len(grid), -1, -1, -1), self.missing.expand(len(grid), -1, -1, -1)
        encoded = self.model.encode(many, hole, infer=False)
        trace = self.model.decode(encoded, lambda level, p, q: p.mean + grid * p.stddev, seeded_noise())
        ones = trace.pixels.mean.double().view(len(grid), 3)
        target = x[self.missing].double()
        likelihoods = (target * ones + (1 - target) * (1 - ones)).prod(1)
        return math.log(torch.trapezoid(likelihoods * Normal(0, 1).log_prob(grid.flatten()).exp(), grid.flatten()))

    def traces(self, count, batch, seed=0):
        noise = seeded_noise(seed)
        x, missing = self.x.expand(batch, -1, -1, -1), self.missing.expand(batch, -1, -1, -1)
        return (self.model(x, missing, noise) for _ in range(count))


@pytest.fixture(scope="module")
def exact():
    return Exact()


def test_the_probabilities_of_all_fillings_sum_to_one(exact):
    probabilities = [math.exp(exact.log_likelihood(x[None])) for x in exact.fillings()]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert max(probabilities) > 1.5 * min(probabilities)


def test_the_exact_model_needs_its_z(exact):
    """Otherwise the tests below would show little: a loose bound, pixels that hang together."""
    (trace,) = exact.traces(1, 4000)
    assert free_energy(trace).mean() > -exact.log_likelihood(exact.x) + 0.1
    assert trace.pixels.mean.view(-1, 3).std(0).max() > 0.1


def test_free_energy_is_above_the_exact_value(exact):
    (trace,) = exact.traces(1, 4000)
    energies = free_energy(trace)
    assert energies.mean() > -exact.log_likelihood(exact.x) - 4 * energies.std() / math.sqrt(len(energies))


def test_iwae_bound_falls_with_k_to_the_exact_value(exact):
    truth, means = -exact.log_likelihood(exact.x), []
    for k in (1, 2, 5, 20, 200):
        bounds = iwae_bound(exact.traces(k, 1000, seed=k))
        error = float(bounds.std()) / math.sqrt(len(bounds))
        means.append(float(bounds.mean()))
        assert means[-1] > truth - 4 * error
    assert means == sorted(means, reverse=True)
    assert means[0] > truth + 0.1 and means[-1] == pytest.approx(truth, abs=0.01)


def test_weights_average_to_the_exact_probability(exact):
    weights = torch.cat([log_weight(trace) for trace in exact.traces(20, 1000)]).double().exp()
    error = float(weights.std()) / math.sqrt(len(weights))
    assert float(weights.mean()) == pytest.approx(math.exp(exact.log_likelihood(exact.x)), abs=4 * error)
    assert error < 0.01 * float(weights.mean())
