"""Equations 7, 9, 10 and 11 by hand, from the modules' own weights."""

import pytest
import torch
from tiny import kernel_of, tiny_config
from torch.nn import functional as F

from matfill.config import Level
from matfill.modules import BottomUp, GaussianHead, Merge, TopDown

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
