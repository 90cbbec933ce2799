"""Noise: one seed means one draw."""

import torch

from matfill.noise import gaussian_noise, generator, row_noise


def test_every_word_of_a_seed_counts():
    seeds = [(0,), (1,), (0, 1), (1, 1), (1, 1, 2)]
    drawn = [float(torch.randn((), generator=generator(seed))) for seed in seeds]
    assert len(set(drawn)) == len(seeds)
    assert drawn == [float(torch.randn((), generator=generator(list(seed)))) for seed in seeds]
    assert float(gaussian_noise(torch.device("cpu"), 1, 1)(torch.Size(()))) == drawn[3]


def test_rows_of_noise_depend_on_their_own_seeds():
    shape = torch.Size((3, 500, 2, 2))
    three, one = row_noise([(0, 0), (0, 1), (7, 5)]), row_noise([(7, 5)])
    for _ in range(2):  # the second draw, too
        a, b = three(shape), one(torch.Size((1, *shape[1:])))
        assert torch.equal(a[2], b[0])
        assert not torch.equal(a[0], a[1])
        assert abs(a.mean()) < 0.05 and abs(a.std() - 1) < 0.05
