"""The local autoregression: strictly causal, the same step by step as all at once, and a sampler of what it says."""

import itertools
import math

import pytest
import torch
from tiny import seeded_noise, tiny_config, tiny_model

from matfill.autoregression import FIRST_KERNEL, KERNEL, CausalConv2d, LocalAutoregression
from matfill.config import Level

SIZE, FEATURES, LAYERS = 6, 7, 3
outputs = pytest.mark.parametrize(("output", "channels"), [("bernoulli", 1), ("logistic", 3), ("logistic", 1)])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def head(channels=3, parameters=5, layers=LAYERS) -> LocalAutoregression:
    """In float64, far from its small initial weights."""
    config = tiny_config(image_channels=channels, autoregression=layers, autoregression_channels=8)
    module = LocalAutoregression(FEATURES, parameters, config).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.requires_grad_(False)


def picture(count, output="logistic", channels=3, size=SIZE):
    top = 2 if output == "bernoulli" else 256
    return torch.randint(0, top, (count, channels, size, size)).double() / (top - 1)


def jacobian(function, x):
    """Whether each pixel's outputs depend on each pixel's inputs, for x (1, C, H, W): (H W, H W), out by in."""
    derivatives = torch.autograd.functional.jacobian(lambda x: function(x)[0].flatten(1), x)  # (P, HW, 1, C, H, W)
    return (derivatives != 0).flatten(4).any(3).any(2).any(0)


# --- what depends on what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_pixel_depends_on_earlier_pixels_alone_in_every_channel(layers, channels):
    module, features = head(channels, layers=layers), torch.randn(1, FEATURES, SIZE, SIZE).double()
    depends = jacobian(lambda x: module(features, module.look(x)), picture(1, channels=channels))
    assert not depends.triu().any()  # neither on a later pixel nor, in any channel, on itself
    reach = FIRST_KERNEL // 2 + (layers - 1) * (KERNEL // 2)
    place = torch.arange(SIZE * SIZE)
    for out, row in enumerate(depends):
        rows, columns = out // SIZE - place // SIZE, place % SIZE - out % SIZE
        near = (place < out) & (rows <= reach) & (columns.abs() <= reach)
        assert not row[~near].any()
        assert row[near & (rows <= FIRST_KERNEL // 2) & (columns.abs() <= FIRST_KERNEL // 2)].all()


def test_the_top_down_output_is_seen_without_restriction():
    """A pixel sees its own features, in every channel, and through the layers those of its neighbours."""
    module, look = head(), head().look(picture(1))
    depends = jacobian(lambda features: module(features, look), torch.randn(1, FEATURES, SIZE, SIZE).double())
    assert depends.diagonal().all() and depends.tril(-1).any()
    for layer in range(LAYERS):
        with torch.no_grad():
            kept = module.conditions[layer].weight.clone()
            before = module(torch.ones(1, FEATURES, SIZE, SIZE).double(), look)
            module.conditions[layer].weight.zero_()
            assert not torch.equal(module(torch.ones(1, FEATURES, SIZE, SIZE).double(), look), before)
            module.conditions[layer].weight.copy_(kept)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("strict", [False, True])
def test_a_causal_convolution_is_a_masked_one(kernel, strict):
    layer = CausalConv2d(2, 3, kernel, strict=strict)
    full = torch.zeros(3, kernel * kernel, 2)
    full[:, : layer.taps] = layer.weight.detach().view(3, layer.taps, 2)
    assert layer.taps == kernel * kernel // 2 + (not strict)
    x = torch.randn(2, 2, 7, 5)
    masked = full.view(3, kernel, kernel, 2).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, masked, layer.bias, padding=kernel // 2))


# --- all at once and one by one --------------------------------------------------------------------------------------


@outputs
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_teacher_forced_parameters_are_those_of_the_sampler(output, channels, share):
    """Where the sampler is made to draw the true image, whatever lay in its hole before."""
    module, x = head(channels), picture(3, output, channels)
    missing = torch.rand(3, 1, SIZE, SIZE) < share
    features, raw = torch.randn(3, FEATURES, SIZE, SIZE).double(), torch.randn(3, 5, SIZE, SIZE).double()
    hidden = torch.where(missing, torch.nan, x)
    drawn, found = module.sample(features, raw, hidden, missing, lambda raw, places: x.flatten(2).mT[:, places])
    assert torch.equal(drawn, x)
    torch.testing.assert_close(found, raw + module(features, module.look(x)), rtol=0, atol=1e-10)


def model(output, channels, **changes):
    config = {"image_size": SIZE, "levels": (Level(1, 8, 2), Level(3, 8, 2)), "autoregression_channels": 8}
    net = tiny_model(image_channels=channels, output=output, autoregression=LAYERS, **config | changes).double()
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return net.requires_grad_(False)


@outputs
@pytest.mark.parametrize("conditional", [True, False])
def test_a_drawn_image_has_the_parameters_it_was_drawn_from(output, channels, conditional):
    """Shown to the model as the truth, with the same z, it gives every pixel's parameters once more, all at once."""
    net = model(output, channels, conditional=conditional)
    x, missing = picture(2, output, channels), torch.ones(2, 1, SIZE, SIZE, dtype=torch.bool)
    if conditional:
        missing[:, :, :3, :4] = False
    trace = net.generate(x, missing, seeded_noise(), (1.0, 1.0))
    zs = iter([latent.z for latent in trace.latents])
    encoded = net.encode(trace.drawn, missing, infer=True)
    again = net.decode(encoded, lambda level, p, q: next(zs), seeded_noise())
    assert torch.equal(torch.where(missing, 0, trace.drawn), torch.where(missing, 0, x))
    torch.testing.assert_close(again.pixels.mean, trace.pixels.mean, rtol=0, atol=1e-6)  # densities are float32
    torch.testing.assert_close(
        trace.pixels.log_prob(again.target), again.pixels.log_prob(again.target), rtol=1e-4, atol=1e-4
    )


def test_every_value_depends_on_earlier_ones_alone_pixel_by_pixel_and_channel_by_channel():
    """Means of red, of green given red, of blue given both: their Jacobian is strictly triangular."""

    def means(x):
        queue = iter(zs)
        pixels = net.decode(net.encode(x, missing, infer=True), lambda level, p, q: next(queue), seeded_noise()).pixels
        colours, (of_red, red, green) = pixels.means[:, 0].unbind(-1), pixels.coupling[:, 0].unbind(-1)
        values = x.movedim(1, -1).reshape(-1, 3).unbind(-1)
        off = [value - mean for value, mean in zip(values, colours, strict=True)]
        shifts = [0.0, of_red * off[0], red * off[0] + green * off[1]]
        return torch.stack([mean + shift for mean, shift in zip(colours, shifts, strict=True)], dim=-1).flatten()

    net = model("logistic", 3, conditional=False)
    x, missing = picture(1), torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool)
    zs = [latent.z for latent in net(x, missing, seeded_noise()).latents]
    found = torch.autograd.functional.jacobian(means, x).movedim(2, -1).reshape(3 * SIZE**2, 3 * SIZE**2)
    assert not found.triu().any()
    for pixel in range(0, 3 * SIZE**2, 3):
        assert (found[pixel : pixel + 3, pixel : pixel + 3].tril(-1) != 0).sum() == 3


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hole", [[[1, 1], [1, 1]], [[0, 1], [1, 1]], [[1, 0], [1, 1]]], ids=str)
def test_samples_of_a_toy_follow_the_product_of_conditionals(hole):
    """All binary images of 2x2 pixels that agree where they are observed, by the chain rule, and as drawn."""
    module = head(1, parameters=1)
    module.output.weight.data *= 2
    features, raw = torch.randn(1, FEATURES, 2, 2).double(), torch.randn(1, 1, 2, 2).double()
    missing = torch.tensor(hole, dtype=torch.bool)[None, None]
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).double().view(16, 1, 2, 2)
    seen = torch.tensor([1.0, 0.0, 1.0, 1.0]).double().view(1, 1, 2, 2)
    agrees = (torch.where(missing, 0, every) == torch.where(missing, 0, seen)).flatten(1).all(1)
    ones = (raw + module(features.expand(16, -1, -1, -1), module.look(every))).sigmoid()
    chain = torch.where(missing, every * ones + (1 - every) * (1 - ones), 1.0).flatten(1).prod(1) * agrees
    assert float(chain.sum()) == pytest.approx(1)
    assert chain[agrees].max() > 3 * chain[agrees].min()

    count = 20_000
    uniform = torch.rand(count, 4, 1).double()
    drawn, _ = module.sample(
        features.expand(count, -1, -1, -1),
        raw.expand(count, -1, -1, -1),
        seen.expand(count, -1, -1, -1),
        missing.expand(count, -1, -1, -1),
        lambda raw, places: (uniform[:, places] < raw.sigmoid()).double(),
    )
    counts = torch.bincount((drawn.flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long(), minlength=16)
    assert (counts[~agrees] == 0).all()
    expected = count * chain[agrees]
    freedom = len(expected) - 1
    statistic = float(((counts[agrees] - expected) ** 2 / expected).sum())
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


@outputs
def test_a_drawn_image_depends_on_its_own_noise_and_hole_alone(output, channels):
    net = model(output, channels)
    x, missing = picture(4, output, channels), torch.rand(4, 1, SIZE, SIZE) < 0.5
    together = net.sample(x, missing, torch.zeros, (1.0, 1.0))
    for i in range(4):
        alone = net.sample(x[i : i + 1], missing[i : i + 1], torch.zeros, (1.0, 1.0))
        torch.testing.assert_close(together[i : i + 1], alone)
    assert torch.equal(together, net.sample(torch.where(missing, torch.nan, x), missing, torch.zeros, (1.0, 1.0)))
