"""Equations 7 to 11 by hand, from the modules' own weights."""

import pytest
import torch
from tiny import kernel_of, tiny_config
from torch.distributions import Normal
from torch.nn import functional as F

from matfill.config import Level
from matfill.distributions import GaussianMixture, component_posterior
from matfill.layers import Conv2d, Gated
from matfill.modules import (
    BottomUp,
    GaussianHead,
    LadderMerge,
    LadderTopDown,
    Merge,
    MixturePrior,
    StandardNormal,
    TopDown,
    TopDownPrior,
)

SIZES = [1, 4]
sizes = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def level(size):
    return Level(size, channels=5, latents=2)


def maps(size, *channels):
    return [torch.randn(3, c, size, size) for c in channels]


def conv(layer, x):
    kernel = kernel_of(layer)
    return F.conv2d(x, kernel, layer.bias, padding=kernel.shape[-1] // 2)


def branch(module, *inputs):
    return conv(module.branch.second, F.leaky_relu(conv(module.branch.first, torch.cat(inputs, dim=1)), 0.1))


@sizes
def test_bottom_up_is_equation_9(size):
    module = BottomUp(level(size), tiny_config(paper=True))
    (h_bu,) = maps(size, 5)
    torch.testing.assert_close(module(h_bu), F.leaky_relu(h_bu + branch(module, h_bu), 0.1))


@sizes
def test_merge_is_equations_10_and_11(size):
    module = Merge(level(size), tiny_config(paper=True))
    h_merge, h_bu, h_td = maps(size, 5, 5, 5)
    found, normal = module(h_merge, h_bu, h_td)
    wanted = F.leaky_relu(h_merge + branch(module, h_merge, h_bu, h_td), 0.1)
    torch.testing.assert_close(found, wanted)
    parameters = conv(module.head.conv, wanted)
    torch.testing.assert_close(normal.mean, parameters[:, :2])
    torch.testing.assert_close(normal.variance.log(), parameters[:, 2:], rtol=1e-4, atol=1e-5)


@sizes
def test_top_down_is_equation_7(size):
    module = TopDown(level(size), tiny_config(paper=True))
    h_td, z, h_merge = maps(size, 5, 2, 5)
    wanted = F.leaky_relu(h_td + branch(module, h_td, z), 0.1)
    torch.testing.assert_close(module(h_td, z, h_merge), wanted)
    assert torch.equal(module(h_td, z, h_merge), module(h_td, z, torch.full_like(h_merge, torch.nan)))


@sizes
def test_top_down_may_see_the_merge_state_too(size):
    module = TopDown(level(size), tiny_config(merge_to_top_down=True))
    h_td, z, h_merge = maps(size, 5, 2, 5)
    torch.testing.assert_close(module(h_td, z, h_merge), F.leaky_relu(h_td + branch(module, h_td, z, h_merge), 0.1))


@sizes
def test_top_down_prior_is_equation_8(size):
    module = TopDownPrior(level(size), tiny_config(paper=True))
    (h_td,) = maps(size, 5)
    parameters = conv(module.head.conv, F.leaky_relu(conv(module.first, h_td), 0.1))
    assert kernel_of(module.first).shape[-1] == (3 if size > 1 else 1)
    torch.testing.assert_close(module(h_td).mean, parameters[:, :2])
    torch.testing.assert_close(module(h_td).variance.log(), parameters[:, 2:], rtol=1e-4, atol=1e-5)


@sizes
def test_the_first_prior_is_standard_normal(size):
    (h_td,) = maps(size, 5)
    p = StandardNormal(level(size))(h_td.bfloat16())
    assert p.mean.shape == (3, 2, size, size) and p.mean.dtype == torch.float32
    assert (p.mean == 0).all() and (p.stddev == 1).all()


@sizes
def test_or_a_mixture_of_what_it_has_learnt(size):
    module = MixturePrior(level(size), tiny_config(conditional=False, prior_components=4))
    torch.nn.init.normal_(module.log_variances)
    p = module(*maps(size, 5))
    assert isinstance(p, GaussianMixture) and p.batch_shape == (3,) and p.event_shape == (2, size, size)
    for image in range(3):
        torch.testing.assert_close(p.normals.mean[image], module.means)
        torch.testing.assert_close(p.normals.variance.log()[image], module.log_variances, rtol=1e-4, atol=1e-5)


def test_at_first_every_component_has_a_share_of_every_image():
    prior = MixturePrior(Level(1, channels=5, latents=32), tiny_config(conditional=False, prior_components=50))
    q = Normal(torch.zeros(1, 32, 1, 1), torch.ones(1, 32, 1, 1))
    shares = component_posterior(q, prior(torch.zeros(1))).probs
    assert shares.min() > 0.1 / 50 and shares.max() < 5 / 50
    assert shares.std() > 0.1 / 50  # but not the same one


@sizes
def test_a_ladders_top_down_state_is_a_function_of_z_alone(size):
    module = LadderTopDown(level(size), tiny_config(conditional=False, ladder=True))
    h_td, z = maps(size, 5, 2)
    wanted = F.leaky_relu(conv(module.branch.second, F.leaky_relu(conv(module.branch.first, z), 0.1)), 0.1)
    torch.testing.assert_close(module(h_td, z, None), wanted)
    assert torch.equal(module(h_td, z, None), module(torch.full_like(h_td, torch.nan), z, None))


def test_a_ladders_posterior_is_proportional_to_the_prior_times_what_was_seen():
    module = LadderMerge(level(1), tiny_config(conditional=False, ladder=True))
    torch.nn.init.normal_(module.head.conv.weight)
    (h_bu,) = maps(1, 5)
    p = Normal(torch.randn(3, 2, 1, 1), torch.rand(3, 2, 1, 1) + 0.3)
    q, seen = module(h_bu, p), module.head(h_bu)
    z = torch.linspace(-3, 3, 7)[:, None, None, None, None]
    ratio = q.log_prob(z) - p.log_prob(z) - seen.log_prob(z)  # the same for every z
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("narrow", [False, True])
@sizes
def test_every_state_may_have_a_gated_update_instead(size, narrow):
    config = tiny_config(update="gru", merge_to_top_down=True, narrow_concat=narrow)
    side = 3 if size > 1 else 1
    for kind, inputs in ((BottomUp, 5), (Merge, 15), (TopDown, 12)):
        update = kind(level(size), config).branch
        assert isinstance(update, Gated)
        first = 1 if narrow and kind is not BottomUp else side
        assert (update.gates.kernel, update.candidate.kernel) == (first, side)
        assert update.gates.weight.shape == (10, inputs * first**2)
    h_merge, h_bu, h_td, z = maps(size, 5, 5, 5, 2)
    bottom_up, merge, top_down = (kind(level(size), config) for kind in (BottomUp, Merge, TopDown))
    torch.testing.assert_close(bottom_up(h_bu), bottom_up.branch(h_bu))
    found, normal = merge(h_merge, h_bu, h_td)
    torch.testing.assert_close(found, merge.branch(h_merge, h_bu, h_td))
    torch.testing.assert_close(normal.mean, merge.head(found).mean)
    torch.testing.assert_close(top_down(h_td, z, h_merge), top_down.branch(h_td, z, h_merge))


@pytest.mark.parametrize("update", ["residual", "gru"])
def test_a_fully_connected_level_has_no_kernel_larger_than_1x1(update):
    config = tiny_config(update=update, narrow_concat=False)
    for kind in (BottomUp, Merge, TopDown, TopDownPrior, LadderTopDown, LadderMerge):
        assert all(m.kernel == 1 for m in kind(level(1), config).modules() if isinstance(m, Conv2d))


@pytest.mark.parametrize("paper", [False, True])
def test_the_papers_first_convolution_is_3x3(paper):
    config = tiny_config(paper=paper)
    for module in (Merge(level(4), config), TopDown(level(4), config)):
        assert kernel_of(module.branch.first).shape[-1] == (3 if paper else 1)


@sizes
def test_modules_leave_their_inputs_as_they_were(size):
    config = tiny_config()
    for module, inputs in [
        (BottomUp(level(size), config), maps(size, 5)),
        (Merge(level(size), config), maps(size, 5, 5, 5)),
        (TopDown(level(size), config), maps(size, 5, 2, 5)),
    ]:
        before = [x.clone() for x in inputs]
        module(*inputs)
        assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def head(bounded):
    return GaussianHead(level(4), tiny_config(bounded_latents=bounded))


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("size", [1e3, 1e6])
def test_a_head_gives_a_proper_normal_at_any_input(size, bounded):
    module = head(bounded)
    h = (size * torch.randn(50, 5, 4, 4)).requires_grad_()
    normal = module(h)
    log_prob = normal.log_prob(torch.zeros(50, 2, 4, 4))
    log_prob.sum().backward()
    assert (normal.stddev > 0).all() and normal.stddev.isfinite().all()
    assert log_prob.isfinite().all() and h.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_a_bounded_head_keeps_latents_within_reach():
    """As eq. 11 has them where they are small, and never far off."""
    free, bounded = head(False), head(True)
    bounded.load_state_dict(free.state_dict())
    small, large = 0.1 * torch.randn(50, 5, 4, 4), 1e4 * torch.randn(50, 5, 4, 4)
    torch.testing.assert_close(bounded(small).mean, free(small).mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(bounded(small).stddev, free(small).stddev, rtol=1e-3, atol=1e-4)
    assert bounded(large).mean.abs().max() <= 8.01 and bounded(large).variance.log().abs().max() <= 5.01


def test_a_head_is_float32_where_the_network_is_not():
    with torch.autocast("cpu", torch.bfloat16):
        normal = head(True)(torch.randn(1, 5, 4, 4))
    assert normal.mean.dtype == normal.stddev.dtype == torch.float32
