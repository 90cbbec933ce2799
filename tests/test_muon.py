import pytest
import torch
from torch import nn

from matfill.muon import Muon, orthogonalised

SHAPES = [(24, 40), (24, 40), (40, 24), (16, 16)]


def matrices(seed):
    torch.manual_seed(seed)
    return [torch.randn(shape) for shape in SHAPES]


def trained(optimizer, parameters):
    for update in range(3):
        for parameter, gradient in zip(parameters, matrices(10 + update), strict=True):
            parameter.grad = gradient
        parameters[1].grad = None if update == 1 else parameters[1].grad
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


def test_in_bfloat16_the_update_is_that_of_torch():
    ours, theirs = ([nn.Parameter(matrix) for matrix in matrices(0)] for _ in range(2))
    own = trained(Muon(ours, 0.02, weight_decay=0.1, dtype=torch.bfloat16), ours)
    for mine, other in zip(own, trained(torch.optim.Muon(theirs, 0.02, weight_decay=0.1), theirs), strict=True):
        assert torch.allclose(mine, other, atol=2e-4)


def test_in_float32_it_is_so_up_to_rounding():
    ours, theirs = ([nn.Parameter(matrix) for matrix in matrices(0)] for _ in range(2))
    own = trained(Muon(ours, 0.02, weight_decay=0.1, dtype=torch.float32), ours)
    for mine, other in zip(own, trained(torch.optim.Muon(theirs, 0.02, weight_decay=0.1), theirs), strict=True):
        assert not torch.equal(mine, other) and torch.allclose(mine, other, atol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    given = torch.randn(3, *shape)
    found = orthogonalised(given, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    assert found.shape == given.shape
    assert ((torch.linalg.svdvals(found) - 1).abs() < 0.5).all()
    u, _, v = torch.linalg.svd(given, full_matrices=False)
    assert ((u @ v) * found).sum() > 0.9 * (u @ v).norm() * found.norm()  # the same directions


def test_without_any_gradient_nothing_moves():
    parameters = [nn.Parameter(matrix) for matrix in matrices(0)]
    Muon(parameters, 0.02, weight_decay=0.1, dtype=torch.float32).step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, matrices(0), strict=True))
