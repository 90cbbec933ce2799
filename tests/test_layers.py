"""Layers: what a convolution computes, and shapes and reach of what joins levels, and images, to each other."""

import pytest
import torch
from tiny import kernel_of, tiny_config
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from matfill.config import Level
from matfill.layers import Branch, Conv2d, Down, Gated, ImageInput, ImageOutput, Residual, Up, enlarge, lrelu

LADDERS = [(64, 32), (32, 16), (16, 8), (8, 1), (28, 14), (14, 7), (7, 1), (28, 7), (9, 3), (64, 8), (2, 1)]
paper_or_not = pytest.mark.parametrize("paper", [False, True])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def config_for(size, finest, *, paper=False):
    return tiny_config(paper=paper, image_size=size, levels=(Level(finest, channels=6, latents=1),))


def reaches(module, *shapes):
    """Largest gradient of the summed output at each input value, |d out / d in|, for every input."""
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    out = module(*inputs)
    gradients = torch.autograd.grad(out, inputs, torch.randn(out.shape), allow_unused=True)
    return [None if g is None else g.abs() for g in gradients]


# --- convolution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "options", "size"),
    [(1, {}, 5), (3, {}, 5), (5, {}, 7), (3, {"stride": 2}, 6), (5, {"stride": 4}, 8), (4, {"padding": 0}, 4)],
)
def test_conv_is_a_convolution_with_its_rows_as_kernels(kernel, options, size):
    conv = Conv2d(3, 4, kernel, **options)
    nn.init.normal_(conv.bias)
    kernels = torch.empty(4, 3, kernel, kernel)
    for row in range(kernel):
        for column in range(kernel):
            start = 3 * (row * kernel + column)
            kernels[:, :, row, column] = conv.weight[:, start : start + 3]
    x = torch.randn(2, 3, size, size)
    wanted = F.conv2d(x, kernels, conv.bias, options.get("stride", 1), options.get("padding", kernel // 2))
    torch.testing.assert_close(conv(x), wanted)
    torch.testing.assert_close(conv(x.contiguous(memory_format=torch.channels_last)), wanted)


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_conv_of_several_inputs_is_that_of_their_concatenation(kernel):
    conv = Conv2d(9, 4, kernel)
    nn.init.normal_(conv.bias)
    inputs = [torch.randn(2, channels, 5, 5) for channels in (4, 2, 3)]
    torch.testing.assert_close(conv(*inputs), conv(torch.cat(inputs, dim=1)))


class ActivationGradients(TorchDispatchMode):
    """Notes of every gradient of an activation whether it is channels-last."""

    def __init__(self):
        super().__init__()
        self.channels_last = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.leaky_relu_backward.default:
            self.channels_last.append(args[0].is_contiguous(memory_format=torch.channels_last))
        return function(*args, **(kwargs or {}))


def test_gradients_of_activations_stay_channels_last():
    """In other layouts they would be right too, but up to thirty times slower on CPUs."""
    update = Residual(8, 5, first_kernel=1)
    h, other = (torch.randn(2, c, 6, 6).to(memory_format=torch.channels_last).requires_grad_() for c in (5, 3))
    loss = update(update(h, other), other).square().sum()
    with ActivationGradients() as seen:
        loss.backward()
    assert seen.channels_last == [True] * 4


def test_a_conv_over_the_whole_map_gives_one_value_per_channel():
    assert Conv2d(3, 7, 8, padding=0)(torch.randn(2, 3, 8, 8)).shape == (2, 7, 1, 1)


def test_lrelu_has_slope_a_tenth():
    torch.testing.assert_close(lrelu(torch.tensor([-2.0, 0.0, 3.0])), torch.tensor([-0.2, 0.0, 3.0]))


@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 3), (1, 1)])
def test_branch_by_hand(first, second):
    branch = Branch(5, 4, first_kernel=first, kernel=second)
    x = torch.randn(2, 5, 6, 6)
    hidden = F.leaky_relu(F.conv2d(x, kernel_of(branch.first), branch.first.bias, padding=first // 2), 0.1)
    wanted = F.conv2d(hidden, kernel_of(branch.second), branch.second.bias, padding=second // 2)
    torch.testing.assert_close(branch(x), wanted)
    torch.testing.assert_close(branch(x[:, :2], x[:, 2:]), wanted)


def test_a_residual_update_by_hand():
    residual = Residual(7, 4, first_kernel=1)
    h, z = torch.randn(2, 4, 6, 6), torch.randn(2, 3, 6, 6)
    branch = Branch(7, 4, first_kernel=1)
    branch.load_state_dict(residual.state_dict())
    torch.testing.assert_close(residual(h, z), F.leaky_relu(h + branch(torch.cat([h, z], dim=1)), 0.1))


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("others", [0, 3])
def test_a_gated_update_is_a_gru(size, others):
    """On 1x1 maps, that of torch.nn.GRUCell, whose z is 1 - u, with r taken to the state before it is multiplied."""
    kernel = 3 if size > 1 else 1
    gated = Gated(4 + others, 4, first_kernel=1, kernel=kernel)
    for parameter in gated.parameters():
        nn.init.normal_(parameter, std=0.5)
    h, x = torch.randn(2, 4, size, size), torch.randn(2, others, size, size)
    inputs = [x] if others else []

    def conv(layer, *maps):
        return F.conv2d(torch.cat(maps, dim=1), kernel_of(layer), layer.bias, padding=layer.kernel // 2)

    u, r = conv(gated.gates, h, x).sigmoid().split(4, dim=1)
    wanted = (1 - u) * h + u * conv(gated.candidate, r * h, x).tanh()
    torch.testing.assert_close(gated(h, *inputs), wanted)
    assert gated.candidate.kernel == kernel


def test_a_gated_update_keeps_most_of_a_state_at_first():
    gated, h = Gated(16, 16), torch.randn(50, 16, 4, 4)
    kept = (gated(h) * h).mean() / h.square().mean()
    assert 0.6 < kept < 0.9


def test_branch_scale_scales_what_a_branch_adds_at_first():
    def branch(scale):
        torch.manual_seed(1)
        return Branch(5, 4, scale=scale)

    x = torch.randn(2, 5, 6, 6)
    torch.testing.assert_close(branch(0.25)(x), 0.25 * branch(1.0)(x))


def test_output_layers_start_small():
    x = torch.randn(8, 32, 6, 6)
    assert Conv2d(32, 8, output=True)(x).std() < 0.3 * Conv2d(32, 8)(x).std()


# --- between levels --------------------------------------------------------------------------------------------------


@paper_or_not
@pytest.mark.parametrize("flat", [0, 2])
@pytest.mark.parametrize(("fine", "coarse"), LADDERS)
def test_down_and_up_have_their_levels_shapes(fine, coarse, flat, paper):
    config = tiny_config(paper=paper, flat_channels=flat)
    fine, coarse = Level(fine, 4, 1), Level(coarse, 5, 1)
    below, above = torch.randn(2, 4, fine.size, fine.size), torch.randn(2, 5, coarse.size, coarse.size)
    assert Down(fine, coarse, config)(below).shape == above.shape
    assert Up(coarse, fine, config)(above).shape == below.shape


@paper_or_not
@pytest.mark.parametrize(("fine", "coarse"), [(8, 4), (12, 4), (8, 2), (10, 2), (8, 1), (7, 1)])
def test_every_value_has_a_part_in_the_coarser_level(fine, coarse, paper):
    config = tiny_config(paper=paper)
    (reach,) = reaches(Down(Level(fine, 4, 1), Level(coarse, 5, 1), config), (1, 4, fine, fine))
    assert (reach > 0).all()


@paper_or_not
@pytest.mark.parametrize(("fine", "coarse"), [(8, 4), (8, 2), (8, 1)])
def test_every_value_has_a_part_in_the_finer_level(fine, coarse, paper):
    config = tiny_config(paper=paper)
    up = Up(Level(coarse, 5, 1), Level(fine, 4, 1), config)
    (reach,) = reaches(up, (1, 5, coarse, coarse))
    assert (reach > 0).all()
    assert up(torch.randn(1, 5, coarse, coarse)).flatten(2).std(-1).min() > 0  # not the same everywhere


@paper_or_not
def test_levels_keep_their_orientation(paper):
    """What changes at the top left of one level changes at most the top left quarter, and a margin, of the next."""
    config = tiny_config(paper=paper)
    for module, size, quarter, margin in [
        (Down(Level(16, 4, 1), Level(8, 4, 1), config), 16, 4, 1),
        (Up(Level(8, 4, 1), Level(16, 4, 1), config), 8, 8, 1),
    ]:
        x = torch.randn(1, 4, size, size)
        y = x.clone()
        y[..., : size // 2, : size // 2] += 1
        changed = (module(x) != module(y)).any(1)[0]
        assert changed[:quarter, :quarter].all()
        assert not changed[quarter + margin :].any() and not changed[:, quarter + margin :].any()


def test_up_in_the_papers_form_enlarges_then_convolves():
    up = Up(Level(4, 5, 1), Level(8, 3, 1), tiny_config(paper=True))
    h = torch.randn(2, 5, 4, 4)
    large = h.repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted = F.leaky_relu(F.conv2d(large, kernel_of(up.conv), up.conv.bias, padding=1), 0.1)
    torch.testing.assert_close(up(h), wanted)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_enlarge_repeats_each_value(ratio):
    h = torch.arange(2 * 3 * 4.0).view(1, 2, 3, 4)
    assert torch.equal(enlarge(h, ratio), h.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3))


# --- images ----------------------------------------------------------------------------------------------------------


@paper_or_not
@pytest.mark.parametrize(("size", "finest"), [(64, 32), (28, 14), (8, 8), (8, 2), (8, 1), (9, 3)])
def test_images_enter_and_leave(size, finest, paper):
    config = config_for(size, finest, paper=paper)
    features = ImageInput(4, config)(torch.randn(2, 4, size, size))
    assert features.shape == (2, 6, finest, finest)
    assert ImageOutput(4, 10, config)(features, torch.randn(2, 4, size, size)).shape == (2, 10, size, size)


@paper_or_not
def test_images_enter_and_leave_a_fully_connected_level_through_linear_layers(paper):
    config = config_for(8, 1, paper=paper)
    enter, leave = ImageInput(4, config), ImageOutput(4, 10, config)
    assert all(m.kernel == m.stride == 1 for x in (enter, leave) for m in x.modules() if isinstance(m, Conv2d))
    state, image = reaches(leave, (1, 6, 1, 1), (1, 4, 8, 8))
    assert (state > 0).all()
    assert image is None if paper else (image > 0).all()
    out = leave(torch.randn(2, 6, 1, 1), torch.randn(2, 4, 8, 8))
    assert out.flatten(2).std(-1).min() > 0  # each pixel has weights of its own


@pytest.mark.parametrize("finest", [1, 4])
def test_an_output_may_have_no_image_to_see(finest):
    output = ImageOutput(0, 10, config_for(8, finest))
    h_td = torch.randn(2, 6, finest, finest)
    (reach,) = reaches(lambda h: output(h, None), (2, 6, finest, finest))
    assert output(h_td, None).shape == (2, 10, 8, 8) and (reach > 0).all()


@paper_or_not
@pytest.mark.parametrize(("size", "finest"), [(8, 8), (8, 4), (9, 3), (8, 2), (8, 1)])
def test_every_pixel_is_seen(size, finest, paper):
    (reach,) = reaches(ImageInput(4, config_for(size, finest, paper=paper)), (1, 4, size, size))
    assert (reach > 0).all()


@paper_or_not
@pytest.mark.parametrize(("size", "finest"), [(8, 8), (8, 4)])
def test_the_output_sees_the_last_state_everywhere_and_the_image_by_pixel_shuffling_only(size, finest, paper):
    config = config_for(size, finest, paper=paper)
    state, image = reaches(ImageOutput(4, 10, config), (1, 6, finest, finest), (1, 4, size, size))
    assert (state > 0).all()
    assert image is None if paper else (image > 0).all()


def test_an_image_pixel_changes_its_own_surroundings_only():
    output = ImageOutput(4, 3, config_for(16, 8))
    h_td, image = torch.randn(1, 6, 8, 8), torch.randn(1, 4, 16, 16)
    other = image.clone()
    other[..., 2, 9] += 1
    rows, columns = (output(h_td, image) != output(h_td, other)).any(1)[0].nonzero().unbind(1)
    assert rows.min() == 0 and rows.max() == 5  # the 2x2 block it lies in, and one block around
    assert columns.min() == 6 and columns.max() == 11
