"""Conditional MatNets: nothing of the hole's content reaches what generates, and every parameter learns."""

import pytest
import torch
from tiny import holes, images, seeded_noise, tiny_model

from matfill.bounds import free_energy
from matfill.config import FILLS, OUTPUTS, Level
from matfill.model import Hint, enlarge_twice, halve, push_pull

ONES = (1.0, 1.0, 1.0)
every_form = pytest.mark.parametrize("paper", [False, True])
every_count_of_stages = pytest.mark.parametrize("stages", [1, 2])
every_output = pytest.mark.parametrize("output", OUTPUTS)


def batch(output="logistic", count=4):
    return images(count, binary=output == "bernoulli"), holes(count)


def other_content(x, missing, value=None):
    """x with something else in the hole."""
    return torch.where(missing, 1 - x if value is None else value, x)


@torch.no_grad()
def generate(model, x, missing, seed=0, temperature=ONES):
    return model.generate(x, missing, seeded_noise(seed), temperature)


@torch.no_grad()
def infer(model, x, missing, seed=0):
    return model(x, missing, seeded_noise(seed))


def parameters_of(pixels):
    """All that a distribution of pixels consists of."""
    if hasattr(pixels, "means"):
        return [pixels.log_weights, pixels.means, pixels.log_scales, pixels.coupling]
    return [pixels.normal.mean, pixels.normal.stddev] if hasattr(pixels, "normal") else [pixels.mean]


def generator_side(trace):
    return [t for a in trace.latents for t in (a.p.mean, a.p.stddev)] + parameters_of(trace.pixels)


def assert_identical(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one, other)


# --- push-pull -------------------------------------------------------------------------------------------------------

FRAMES = [(8, 8), (1, 1), (5, 3), (17, 30), (64, 3), (1, 40)]
frames = pytest.mark.parametrize("frame", FRAMES, ids=str)


def scattered(frame, share=0.6, seed=0):
    """missing (2, 1, H, W): scattered pixels, at least one of them observed."""
    missing = torch.rand(2, 1, *frame, generator=torch.Generator().manual_seed(seed)) < share
    missing[..., 0, 0] = False
    return missing


@frames
def test_push_pull_keeps_what_is_observed_and_stays_within_it(frame):
    x, missing = torch.rand(2, 3, *frame, generator=torch.Generator().manual_seed(1)), scattered(frame)
    filled = push_pull(x, missing)
    assert torch.equal(filled[(~missing).expand_as(x)], x[(~missing).expand_as(x)])
    for image, before, hole in zip(filled, x, missing, strict=True):
        for channel in range(3):
            seen = before[channel][~hole[0]]
            assert image[channel].min() >= seen.min() - 1e-6 and image[channel].max() <= seen.max() + 1e-6


@frames
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, -2.0])
def test_push_pull_carries_a_constant_on(frame, value):
    filled = push_pull(torch.full((2, 3, *frame), value), scattered(frame))
    torch.testing.assert_close(filled, torch.full_like(filled, value))


@frames
@pytest.mark.parametrize("content", [1e9, torch.nan, torch.inf])
def test_push_pull_does_not_look_into_the_hole(frame, content):
    x, missing = torch.rand(2, 3, *frame), scattered(frame)
    assert torch.equal(push_pull(x, missing), push_pull(other_content(x, missing, content), missing))


@frames
def test_push_pull_of_nothing_is_grey(frame):
    filled = push_pull(torch.rand(2, 3, *frame), torch.ones(2, 1, *frame, dtype=torch.bool))
    torch.testing.assert_close(filled, torch.full_like(filled, 0.5))


def test_push_pull_treats_images_of_a_batch_apart():
    x, missing = torch.rand(2, 3, 9, 9), scattered((9, 9))
    missing[0] = True
    filled = push_pull(x, missing)
    torch.testing.assert_close(filled[0], torch.full_like(filled[0], 0.5))
    torch.testing.assert_close(filled[1:], push_pull(x[1:], missing[1:]))


@pytest.mark.parametrize("frame", [(64, 64), (300, 8), (8, 300)], ids=str)
def test_push_pull_goes_on_with_a_ramp(frame):
    """A hole across the middle of a gradient comes out close to the gradient, whatever the frame's shape."""
    longest = max(frame)
    ramp = torch.linspace(0, 1, longest).expand(1, 1, min(frame), longest)
    missing = torch.zeros_like(ramp, dtype=torch.bool)
    missing[..., longest // 2 - longest // 8 : longest // 2 + longest // 8] = True
    if frame[0] > frame[1]:
        ramp, missing = ramp.mT, missing.mT
    assert (push_pull(ramp, missing) - ramp).abs().max() < 0.13


# --- no leak ---------------------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[(stages, paper, fill) for stages in (1, 2) for paper in (False, True) for fill in FILLS], ids=str
)
def model(request):
    """Every count of stages, with and without the improvements, with both kinds of fill."""
    stages, paper, fill = request.param
    model = tiny_model(stages=stages, paper=paper, fill=fill)
    model.mean_image.uniform_()
    return model


contents = pytest.mark.parametrize("content", [None, torch.nan])


@contents
def test_what_is_generated_does_not_depend_on_what_is_missing(model, content):
    x, missing = batch()
    y = other_content(x, missing, content)
    a, b = generate(model, x, missing), generate(model, y, missing)
    assert_identical(generator_side(a), generator_side(b))
    assert torch.equal(model.compose(x, a), model.compose(y, b))


@contents
def test_nor_does_the_generators_side_of_inference(model, content):
    """p of each level, given the same z, and the pixels; whereas every q looks at what is missing."""

    def replay(x, zs):
        queue = iter(zs)
        with torch.no_grad():
            encoded = model.encode(x, missing, infer=True)
            return model.decode(encoded, lambda level, p, q: next(queue), seeded_noise())

    x, missing = batch()
    first = infer(model, x, missing)
    zs = [latent.z for latent in first.latents]
    second = replay(other_content(x, missing, content), zs)
    assert_identical(generator_side(first), generator_side(second))
    for a, b in zip(first.latents, second.latents, strict=True):
        assert (a.q.mean != b.q.mean).flatten(1).any(1).all()


@contents
def test_the_stages_see_nothing_of_what_is_missing(model, content):
    def seen_by_stages(x):
        seen = []
        for stage in model.stages:
            for module in (stage.generator.image, stage.output):
                hooks.append(module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[-1].clone())))
        generate(model, x, missing)
        while hooks:
            hooks.pop().remove()
        return seen

    x, missing = batch()
    hooks = []
    seen = seen_by_stages(x)
    assert len(seen) == 2 * len(model.stages)
    assert_identical(seen, seen_by_stages(other_content(x, missing, content)))


def hint_for(missing, seed=9):
    """One that says something of half of the hole."""
    there = torch.rand(missing.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return Hint(images(len(missing), seed=seed), there)


@contents
def test_with_a_hint_nothing_depends_on_what_is_missing_either(model, content):
    x, missing = batch()
    hint = hint_for(missing)
    found = [
        model.generate(given, missing, seeded_noise(), ONES, hint) for given in (x, other_content(x, missing, content))
    ]
    assert_identical(generator_side(found[0]), generator_side(found[1]))


def test_a_hint_matters_where_it_says_something_in_the_hole_and_nowhere_else(model):
    x, missing = batch()
    hint = hint_for(missing)
    elsewhere = torch.where(hint.there & missing, hint.image, 0.123)
    first, same, none, other = (
        model.generate(x, missing, seeded_noise(), ONES, given)
        for given in (hint, Hint(elsewhere, hint.there), None, Hint(1 - hint.image, hint.there))
    )
    assert_identical(generator_side(first), generator_side(same))
    for another in (none, other):
        assert not torch.equal(first.pixels.mean, another.pixels.mean)
    silent = Hint(hint.image, torch.zeros_like(missing))
    assert_identical(generator_side(none), generator_side(model.generate(x, missing, seeded_noise(), ONES, silent)))


def test_a_hint_stands_in_the_hole(model):
    x, missing = batch()
    hint = Hint(images(len(x), seed=5), torch.ones_like(missing))
    assert torch.equal(model.fill(x, missing, hint), torch.where(missing, hint.image, x))


def test_halving_and_enlarging_keep_places_and_means():
    x = images(2)
    assert halve(x).shape == (2, 3, 4, 4) and enlarge_twice(halve(x)).shape == x.shape
    torch.testing.assert_close(enlarge_twice(halve(x)).mean((2, 3)), x.mean((2, 3)), atol=0.05, rtol=0)
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    torch.testing.assert_close(enlarge_twice(halve(ramp))[..., 1:-1], ramp[..., 1:-1])


def test_what_is_observed_does_matter(model):
    x, missing = batch()
    a, b = generate(model, x, missing), generate(model, torch.where(missing, x, 1 - x), missing)
    assert not torch.equal(a.latents[0].p.mean, b.latents[0].p.mean)
    assert not torch.equal(a.pixels.mean, b.pixels.mean)


def test_fill_keeps_what_is_observed(model):
    x, missing = batch()
    filled = model.fill(x, missing)
    assert torch.equal(torch.where(missing, 0, filled), torch.where(missing, 0, x))
    if model.config.fill == "mean":
        assert torch.equal(torch.where(missing, filled, 0), torch.where(missing, model.mean_image, 0))


# --- learning --------------------------------------------------------------------------------------------------------


@every_output
@every_count_of_stages
@every_form
def test_gradients_reach_every_parameter(output, stages, paper):
    model = tiny_model(output=output, stages=stages, paper=paper)
    free_energy(model(*batch(output), seeded_noise())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    "changes",
    [
        {"mixtures": 3},
        {"image_channels": 1},
        {"levels": (Level(4, 4, 1),)},
        {"levels": (Level(1, 4, 1, modules=3),)},
        {"update": "gru"},
        {"update": "gru", "shared_modules": True},
        {"autoregression": 2},
    ],
    ids=str,
)
def test_gradients_reach_every_parameter_of_other_models(changes):
    model = tiny_model(**changes)
    x = images(4, model.config.image_channels)
    free_energy(model(x, holes(4), seeded_noise())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@every_output
@every_form
def test_half_precision_networks_agree_with_full(output, paper):
    model = tiny_model(output=output, paper=paper)
    x, missing = batch(output, count=16)
    full = free_energy(infer(model, x, missing))
    with torch.autocast("cpu", torch.bfloat16):
        trace = infer(model, x, missing)
        half = free_energy(trace)
    assert half.dtype == torch.float32 and all(latent.z.dtype == torch.float32 for latent in trace.latents)
    torch.testing.assert_close(half, full, rtol=0.03, atol=0.3)


# --- traces ----------------------------------------------------------------------------------------------------------


def test_latents_come_stage_by_stage_and_level_by_level(model):
    x, missing = batch()
    order = [(stage, level) for stage in range(len(model.stages)) for level in (0, 1, 1, 2)]
    for trace in (infer(model, x, missing), generate(model, x, missing)):
        assert [(latent.stage, latent.level) for latent in trace.latents] == order


def test_rows_are_the_missing_pixels_in_order():
    x, missing = batch()
    target = infer(tiny_model(), x, missing).target
    places = missing[:, 0].nonzero().tolist()
    assert len(places) == len(target)
    assert all(torch.equal(row, x[i, :, y, z]) for row, (i, y, z) in zip(target, places, strict=True))


def test_targets_of_a_gaussian_are_spread_over_their_bins():
    x, missing = batch(count=16)
    exact = infer(tiny_model(), x, missing).target
    trace = infer(tiny_model(output="gaussian"), x, missing)
    spread = 256 * trace.target - 255 * exact
    assert spread.min() > -0.01 and spread.max() < 1.01
    assert spread.mean() == pytest.approx(0.5, abs=0.05) and spread.std() == pytest.approx(12**-0.5, abs=0.03)


def test_what_is_generated_has_no_target_and_no_q():
    trace = generate(tiny_model(), *batch())
    assert trace.target is None and all(latent.q is None for latent in trace.latents)


@every_output
def test_the_stages_parameters_add_up(output):
    """A second stage that adds nothing leaves what the first alone would give."""
    both, alone = tiny_model(output=output), tiny_model(output=output, stages=1)
    alone.stages[0].load_state_dict(both.stages[0].state_dict())
    x, missing = batch(output)
    wanted = parameters_of(generate(alone, x, missing).pixels)
    assert not torch.equal(generate(both, x, missing).pixels.mean, generate(alone, x, missing).pixels.mean)
    for parameter in both.stages[1].output.conv.parameters():
        torch.nn.init.zeros_(parameter)
    assert_identical(parameters_of(generate(both, x, missing).pixels), wanted)


def test_the_second_stage_refines_the_firsts_guess():
    model = tiny_model()
    x, missing = batch()
    before = generate(model, x, missing)
    with torch.no_grad():
        model.stages[0].output.conv.bias.add_(0.5)
    after = generate(model, x, missing)
    assert all(
        torch.equal(a.p.mean, b.p.mean) == (a.stage == 0) for a, b in zip(before.latents, after.latents, strict=True)
    )


# --- filling ---------------------------------------------------------------------------------------------------------


@every_output
@every_count_of_stages
def test_compose_keeps_what_is_observed_and_gives_an_image(output, stages):
    model = tiny_model(output=output, stages=stages)
    with torch.no_grad():
        for stage in model.stages:
            stage.output.conv.weight.mul_(100)
    x, missing = batch(output)
    filled = model.compose(x, generate(model, x, missing))
    assert filled.shape == x.shape and filled.dtype == x.dtype
    assert torch.equal(torch.where(missing, 0, filled), torch.where(missing, 0, x))
    inside = filled[missing.expand_as(x)]
    assert inside.min() >= 0 and inside.max() <= 1 and inside.std() > 0.1


def test_compose_puts_each_pixel_in_its_place():
    model = tiny_model()
    x, missing = batch()
    trace = generate(model, x, missing)
    filled = model.compose(x, trace)
    for row, (i, y, z) in zip(trace.pixels.mean, missing[:, 0].nonzero().tolist(), strict=True):
        assert torch.equal(filled[i, :, y, z], row.clamp(0, 1))


def test_one_noise_means_one_filling(model):
    x, missing = batch()
    first = model.compose(x, generate(model, x, missing, seed=1))
    assert torch.equal(first, model.compose(x, generate(model, x, missing, seed=1)))
    assert not torch.equal(first, model.compose(x, generate(model, x, missing, seed=2)))


def test_at_temperature_0_noise_is_irrelevant(model):
    x, missing = batch()
    a, b = (generate(model, x, missing, seed, temperature=(0.0, 0.0, 0.0)) for seed in (1, 2))
    assert_identical(parameters_of(a.pixels), parameters_of(b.pixels))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_level_has_its_own_temperature(level):
    x, missing = batch()
    temperature = tuple(float(i == level) for i in range(3))
    for latent in generate(tiny_model(), x, missing, temperature=temperature).latents:
        assert torch.equal(latent.z, latent.p.mean) == (latent.level != level)


@every_output
@pytest.mark.parametrize("share", [0, 1])
def test_all_or_nothing_may_be_missing(output, share):
    model = tiny_model(output=output)
    x, missing = batch(output)
    missing[1:3] = bool(share)
    trace = infer(model, x, missing)
    assert free_energy(trace).isfinite().all()
    assert model.compose(x, trace).isfinite().all()
    missing[:] = bool(share)
    assert model.compose(x, infer(model, x, missing)).isfinite().all()


def test_images_of_a_batch_do_not_mix(model):
    x, missing = batch()

    def flat(count):
        trace = model.generate(x[:count], missing[:count], torch.zeros, ONES)
        return model.compose(x[:count], trace)

    torch.testing.assert_close(flat(4)[:1], flat(1))


def test_weights_are_a_function_of_the_seed():
    a, b, c = (tiny_model(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
