"""The descent: every module's latents once and in order; each z has a say in all that comes after it."""

from itertools import pairwise

import pytest
import torch
from tiny import images, seeded_noise, tiny_config

from matfill.config import Level
from matfill.stacks import GeneratorStack, InferenceStack, TopDownPath, descend, from_posterior, from_prior

#: (size, modules) of each level
LADDERS = [
    [(1, 1)],
    [(4, 1)],
    [(8, 3)],
    [(1, 2), (4, 1)],
    [(2, 1), (4, 2)],
    [(1, 1), (2, 2), (4, 1), (8, 3)],
]
ladders = pytest.mark.parametrize("ladder", LADDERS, ids=str)


class Stacks:
    """Both stacks and the path between them, with the states of one random batch."""

    def __init__(self, ladder, *, paper=False, batch=2, **changes):
        levels = tuple(Level(size, 4 + i, 1 + i, modules) for i, (size, modules) in enumerate(ladder))
        config = tiny_config(paper=paper, levels=levels, **changes)
        torch.manual_seed(0)
        self.generator, self.inference = GeneratorStack(4, config), InferenceStack(7, config)
        self.path = TopDownPath(config)
        self.seen, self.all = images(batch, 4), images(batch, 7, seed=1)

    @torch.no_grad()
    def descend(self, source, *, infer=True):
        return descend(
            self.path,
            len(self.seen),
            self.generator.start(self.generator.bottom_up(self.seen)),
            source,
            inference=self.inference.start(self.inference.bottom_up(self.all)) if infer else None,
        )

    def replay(self, zs, *, infer=True):
        """Latents and final state with every z given."""
        queue = iter(zs)
        return self.descend(lambda level, p, q: next(queue), infer=infer)


def same(a, b):
    return torch.equal(a.mean, b.mean) and torch.equal(a.stddev, b.stddev)


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("infer", [False, True])
@ladders
def test_every_module_gives_its_latents_in_order(ladder, infer, paper):
    stacks, levels = Stacks(ladder, paper=paper), []

    def source(level, p, q):
        levels.append(level)
        return p.mean

    h_td, latents = stacks.descend(source, infer=infer)
    wanted = [i for i, (_, modules) in enumerate(ladder) for _ in range(modules)]
    assert levels == [latent.level for latent in latents] == wanted
    assert h_td.shape == (2, 3 + len(ladder), ladder[-1][0], ladder[-1][0])
    for latent in latents:
        size = ladder[latent.level][0]
        assert latent.z.shape == latent.p.mean.shape == latent.p.stddev.shape == (2, 1 + latent.level, size, size)
        assert (latent.q is not None) == infer


@ladders
def test_the_bottom_up_states_are_in_the_descents_order(ladder):
    stacks = Stacks(ladder)
    states = stacks.generator.bottom_up(stacks.seen)
    assert [[h.shape[-1] for h in level] for level in states] == [[size] * modules for size, modules in ladder]
    chain = [h for level in states for h in level]
    image = stacks.seen.clone().requires_grad_()
    nearest = stacks.generator.bottom_ups[-1][0](stacks.generator.image(image))
    torch.testing.assert_close(chain[-1], nearest)
    for above, below in pairwise(chain):  # each state is a function of the one that the descent meets next
        assert above.requires_grad and torch.autograd.grad(above.sum(), below, retain_graph=True)[0].abs().sum() > 0


@ladders
def test_each_z_has_a_say_in_what_follows_and_only_there(ladder):
    stacks = Stacks(ladder)
    h_td, latents = stacks.descend(from_prior(seeded_noise(), (1.0,) * len(ladder)))
    for i in range(len(latents)):
        zs = [latent.z for latent in latents]
        zs[i] = zs[i] + 1
        changed_h_td, changed = stacks.replay(zs)
        for before, after in zip(latents[: i + 1], changed[: i + 1], strict=True):
            assert same(before.p, after.p) and same(before.q, after.q)
        for before, after in zip(latents[i + 1 :], changed[i + 1 :], strict=True):
            assert not torch.equal(before.p.mean, after.p.mean) and not torch.equal(before.q.mean, after.q.mean)
        assert not torch.equal(h_td, changed_h_td)


@pytest.mark.parametrize("update", ["residual", "gru"])
def test_modules_that_share_parameters_are_as_modules_with_the_same_ones(update):
    ladder = [(1, 2), (2, 3), (4, 1)]
    apart, shared = Stacks(ladder, update=update), Stacks(ladder, update=update, shared_modules=True)
    for part in ("generator", "inference", "path"):
        state = {}
        for name, value in getattr(shared, part).state_dict().items():
            grid, *place = name.split(".")
            if grid in ("bottom_ups", "merges", "levels"):
                level, i, *rest = place
                assert i == "0"  # there is no second one
                state |= {".".join([grid, level, str(i), *rest]): value for i in range(ladder[int(level)][1])}
            else:
                state[name] = value
        getattr(apart, part).load_state_dict(state)
    found, wanted = (stacks.descend(from_posterior(seeded_noise()))[1] for stacks in (shared, apart))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.z, b.z)
    assert not same(found[2].q, found[3].q)  # their states differ


@ladders
def test_the_generator_does_not_notice_the_inference_stack(ladder):
    stacks = Stacks(ladder)
    h_td, latents = stacks.descend(from_posterior(seeded_noise()))
    alone_h_td, alone = stacks.replay([latent.z for latent in latents], infer=False)
    assert torch.equal(h_td, alone_h_td)
    assert all(same(a.p, b.p) for a, b in zip(latents, alone, strict=True))


def test_from_posterior_draws_q():
    stacks, ones = Stacks(LADDERS[-1]), from_posterior(torch.ones)
    for latent in stacks.descend(ones)[1]:
        torch.testing.assert_close(latent.z, latent.q.mean + latent.q.stddev)


def test_from_posterior_may_leave_the_finer_levels_to_p():
    stacks = Stacks(LADDERS[-1])
    for latent in stacks.descend(from_posterior(torch.ones, levels=2))[1]:
        coarse = latent.q.mean + latent.q.stddev
        torch.testing.assert_close(latent.z, coarse if latent.level < 2 else latent.p.mean)


def test_from_prior_draws_p_each_level_at_its_temperature():
    stacks, temperature = Stacks(LADDERS[-1]), (0.0, 1.0, 0.5, 2.0)
    for latent in stacks.descend(from_prior(torch.ones, temperature), infer=False)[1]:
        torch.testing.assert_close(latent.z, latent.p.mean + temperature[latent.level] * latent.p.stddev)


def test_images_of_a_batch_do_not_mix():
    stacks = Stacks(LADDERS[-1])
    _, latents = stacks.descend(from_prior(torch.ones, (1.0,) * 4))
    zs = [latent.z for latent in latents]
    stacks.seen[1] = 1 - stacks.seen[1]
    stacks.all[1] = 1 - stacks.all[1]
    for before, after in zip(latents, stacks.replay(zs)[1], strict=True):
        torch.testing.assert_close(before.p.mean[0], after.p.mean[0])
        torch.testing.assert_close(before.q.mean[0], after.q.mean[0])
        assert not torch.allclose(before.p.mean[1], after.p.mean[1])
