"""The update: what is minimised and reported, steps on the model's own samples, and how a run goes on from them."""

import dataclasses
import inspect
import math

import pytest
import torch
from tiny import holes, images, seeded_noise, tiny_model

from matfill import bounds
from matfill.config import WARP_VALUES, Level, TrainConfig
from matfill.errors import ConfigError
from matfill.model import enlarge_twice, halve
from matfill.objective import Objective, heldout_scores, summarise
from matfill.stacks import from_latents, from_posterior
from matfill.trainer import Trainer, load_checkpoint

CPU = torch.device("cpu")
MIXED = {"output": "bernoulli", "prior_components": 3}
CONFIG = TrainConfig(
    mask="all",
    batch=8,
    updates=1000,
    learning_rate=1e-2,
    muon_learning_rate=0.02,
    warmup=0,
    kl_warmup=0,
    decay=0.0,
    prediction_weight=0.0,
)
KINDS = {
    "unconditional": {"conditional": False, "output": "bernoulli"},
    "mixture, gru": {"conditional": False, "update": "gru", **MIXED},
    "autoregression": {"conditional": False, "autoregression": 2, "output": "bernoulli"},
    "conditional": {"stages": 1, "output": "bernoulli"},
    "two stages": {},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def trainer_of(kind, **changes) -> Trainer:
    # widths of 16: some parameters are Muon's
    levels = (Level(1, 16, 2), Level(2, 16, 2, modules=2), Level(4, 16, 1))
    return Trainer(tiny_model(levels=levels, **KINDS[kind]).train(), dataclasses.replace(CONFIG, **changes), CPU)


def batch(trainer, count=8):
    config = trainer.model.config
    x = images(count, binary=config.output == "bernoulli").mul(255).round().byte()
    return x, holes(count) if config.conditional else torch.ones(count, 1, 8, 8, dtype=torch.bool)


def own_step(trainer, noise):
    x, missing = batch(trainer)
    trainer._step_on_own_samples(x.float() / 255, missing, noise, math.inf)


# --- equation 13 -----------------------------------------------------------------------------------------------------


@kinds
def test_a_step_on_own_samples_moves_the_inference_stacks_alone(kind):
    """After updates that have left their momentum behind, and with weight decay."""
    trainer = trainer_of(kind)
    for seed in range(3):
        trainer.step(*batch(trainer), noise=seeded_noise(seed))
    inference = {id(p) for p in trainer.model.inference_parameters()}
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    assert {names[i] for i in inference} == {name for name in names.values() if ".inference." in name}
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    states = {p: v for optimizer in trainer.optimizers for p, v in optimizer.state.items()}
    states_before = {p: {k: torch.as_tensor(v).clone() for k, v in state.items()} for p, state in states.items()}
    buffers = {name: b.clone() for name, b in trainer.model.named_buffers()}
    assert all(states_before.values()) and len(states) == len(before)

    own_step(trainer, seeded_noise(9))

    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in inference), name
        assert parameter.grad is None
        if id(parameter) not in inference:
            for key, value in states_before[parameter].items():
                assert torch.equal(torch.as_tensor(states[parameter][key]), value), name
    assert all(torch.equal(b, buffers[name]) for name, b in trainer.model.named_buffers())


@kinds
def test_what_such_a_step_sees_was_drawn_by_the_model(kind):
    trainer, seen = trainer_of(kind), []
    x, missing = batch(trainer)
    x = x.float() / 255
    wanted = trainer.model.sample(x, missing, seeded_noise(3), (1.0,) * 3).detach()
    trainer.model.register_forward_pre_hook(lambda model, inputs: seen.append(inputs))
    own_step(trainer, seeded_noise(3))
    ((drawn, hole, _),) = seen
    assert torch.equal(drawn, wanted) and not torch.equal(drawn, x) and torch.equal(hole, missing)
    assert torch.equal(torch.where(missing, 0, drawn), torch.where(missing, 0, x))


def let_latents_speak(model, scale):
    """So that z has a say in what is drawn."""
    with torch.no_grad():
        for part in (model.stages[0].path, model.stages[0].output):
            for parameter in part.parameters():
                parameter.mul_(scale)


speaking = pytest.mark.parametrize(
    ("kind", "scale"), [("unconditional", 2), ("mixture, gru", 5), ("conditional", 2), ("autoregression", 2)]
)


@speaking
def test_steps_on_own_samples_tighten_the_bound_on_samples(kind, scale):
    """So q comes closer to the true posterior: the likelihood of samples stays, since the generator does."""

    def energy():
        with torch.no_grad():
            return float(bounds.free_energy(model(drawn, missing, seeded_noise(5))).mean())

    trainer = trainer_of(kind)
    model = trainer.model
    let_latents_speak(model, scale)
    x, missing = (t.repeat(16, 1, 1, 1) for t in batch(trainer))
    drawn = model.sample(x.float() / 255, missing, seeded_noise(77), (1.0,) * 3).detach()
    before = energy()
    for seed in range(20):
        own_step(trainer, seeded_noise(100 + seed))
    assert energy() < 0.98 * before


@speaking
def test_steps_on_own_latents_raise_the_posterior_of_the_latents_that_samples_were_drawn_from(kind, scale):
    def surprise():
        encoded = model.encode(x, missing, infer=True)
        trace = model.decode(encoded, from_latents(drawn.latents), seeded_noise(5), autoregress=False)
        for latent, known in zip(trace.latents, drawn.latents, strict=True):
            assert torch.equal(latent.z, known.z)
        return -float(bounds.posterior_log_prob(trace).mean())

    trainer = trainer_of(kind, own_samples_every=1, own_latents=True)
    model = trainer.model
    let_latents_speak(model, scale)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    x, missing = (t.repeat(16, 1, 1, 1) for t in batch(trainer))
    with torch.no_grad():
        drawn = model.generate(x.float() / 255, missing, seeded_noise(77), (1.0,) * 3)
        x = model.draw(x.float() / 255, drawn, seeded_noise(78))
        first = surprise()
        with torch.enable_grad():
            for seed in range(20):
                own_step(trainer, seeded_noise(100 + seed))
        assert surprise() < first - 0.5
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all(".inference." in name for name in changed)


@kinds
@pytest.mark.parametrize("own", [0, 1])
def test_inference_only_leaves_the_generator_as_it_was(kind, own):
    trainer = trainer_of(kind, inference_only=True, own_samples_every=own)
    x, missing = batch(trainer)
    before = {name: p.clone() for name, p in trainer.model.state_dict().items()}
    wanted = trainer.model.sample(x.float() / 255, missing, seeded_noise(3), (1.0,) * 3)
    with torch.no_grad():
        first = float(trainer.objective(x.float() / 255, missing, seeded_noise(7), [1.0] * 3)[0])
    for seed in range(8, 12):
        trainer.step(x, missing, noise=seeded_noise(seed))
    with torch.no_grad():
        assert float(trainer.objective(x.float() / 255, missing, seeded_noise(7), [1.0] * 3)[0]) < first
    for state in (trainer.model.state_dict(), trainer.ema.module.state_dict()):
        changed = {name for name, p in state.items() if not torch.equal(p, before[name])}
        assert changed and all(".inference." in name for name in changed)
    assert torch.equal(trainer.model.sample(x.float() / 255, missing, seeded_noise(3), (1.0,) * 3), wanted)


@pytest.mark.parametrize(("every", "since", "wanted"), [(0, 0, []), (1, 0, [0, 1, 2, 3, 4, 5]), (2, 1, [1, 3, 5])])
def test_they_follow_the_updates_they_are_meant_to_follow(monkeypatch, every, since, wanted):
    trainer = trainer_of("unconditional", own_samples_every=every, own_samples_from=since)
    steps = []
    monkeypatch.setattr(trainer, "_step_on_own_samples", lambda *args: steps.append(trainer.progress.update))
    for _ in range(6):
        trainer.step(*batch(trainer))
    assert steps == wanted


def test_a_step_on_own_samples_without_a_usable_gradient_changes_nothing_and_is_counted():
    trainer = trainer_of("unconditional")
    before = {name: p.clone() for name, p in trainer.model.state_dict().items()}
    own_step(trainer, lambda shape: torch.full(tuple(shape), torch.nan))
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.state_dict().items())
    assert trainer.progress.skipped == 1


@pytest.mark.parametrize("kind", ["unconditional", "mixture, gru"])
def test_a_resumed_trainer_goes_on_as_if_nothing_had_happened(kind, tmp_path):
    changes = {"own_samples_every": 2, "own_samples_from": 1}
    if "prior_components" in KINDS[kind]:
        changes["component_entropy"] = 0.1
    whole = trainer_of(kind, **changes)
    for update in range(5):
        if update == 2:
            whole.save(tmp_path, {})
        whole.step(*batch(whole))
    tensors, header = load_checkpoint(tmp_path)
    parts = trainer_of(kind, **changes)
    parts.restore(tensors, header["state"])
    for _ in range(3):
        parts.step(*batch(parts))
    assert parts.progress == whole.progress
    for module in ("model", "ema"):
        a, b = (getattr(trainer, module).state_dict() for trainer in (whole, parts))
        assert all(torch.equal(a[name], b[name]) for name in a if name != "n_averaged")


# --- what is minimised and reported ----------------------------------------------------------------------------------


@kinds
def test_what_is_reported_has_the_rate_of_every_module(kind):
    trainer = trainer_of(kind)
    model = trainer.model.eval().requires_grad_(False)
    x, missing = batch(trainer)
    x = x.float() / 255
    with torch.no_grad():
        _, sums = Objective(model)(x, missing, seeded_noise(), [1.0] * 3)
        trace = model(x, missing, seeded_noise())
    found = summarise(sums, len(x), model.config.levels)
    stages = model.config.stages
    assert [[len(level) for level in stage] for stage in found["module_rates"]] == [[1, 2, 1]] * stages
    flat = [rate for stage in found["module_rates"] for level in stage for rate in level]
    assert flat == pytest.approx([float(kl.mean()) for kl in bounds.module_rates(trace)], rel=1e-4)
    for stage, levels in enumerate(found["rates"]):
        for level, rate in enumerate(levels):
            assert rate == pytest.approx(float(bounds.rates(trace)[stage, level].mean()), rel=1e-4)
            assert rate == pytest.approx(sum(found["module_rates"][stage][level]))
    total = found["distortion"] + sum(map(sum, found["rates"]))
    assert total == pytest.approx(float(bounds.free_energy(trace).mean()), rel=1e-4)
    dims = float(bounds.missing_dims(trace).float().mean())
    assert found["bits_per_dim"] == pytest.approx(total / dims / math.log(2), rel=1e-4)


@pytest.mark.parametrize("kind", ["unconditional", "mixture, gru", "conditional", "two stages"])
def test_a_model_that_sees_warps_learns_from_them_and_scores_as_if_there_were_none(kind):
    """Zeros at first: it is the model without. Then p and q of all latents but a z_0 of N(0, I) go by the warp."""
    levels = (Level(1, 16, 2), Level(2, 16, 2, modules=2), Level(4, 16, 1))
    plain, told = (tiny_model(levels=levels, **KINDS[kind], sees_warp=sees) for sees in (False, True))
    told.load_state_dict(plain.state_dict(), strict=False)
    trainer = Trainer(told.train(), CONFIG, CPU)
    x, missing = batch(trainer)
    warp = torch.linspace(-1, 1, 8 * WARP_VALUES).view(8, WARP_VALUES)

    def trace(model, warp):
        with torch.no_grad():
            encoded = model.encode(x.float() / 255, missing, infer=True, warp=warp)
            return model.decode(encoded, from_posterior(seeded_noise()), seeded_noise(1))

    before = bounds.free_energy(trace(plain, None))
    assert torch.equal(before, bounds.free_energy(trace(told, warp)))
    trainer.step(x, missing, warp, noise=seeded_noise())
    none, zeros, warped = (trace(told, values) for values in (None, torch.zeros_like(warp), warp))
    assert torch.equal(bounds.free_energy(none), bounds.free_energy(zeros))
    for a, b in zip(none.latents, warped.latents, strict=True):
        assert not torch.equal(a.q.mean, b.q.mean)
        first_prior = a is none.latents[0] and not told.config.conditional
        assert first_prior or not torch.equal(a.p.mean, b.p.mean)
    other = tiny_model(levels=levels, **KINDS[kind])
    trainer = Trainer(other.train(), CONFIG, CPU)
    trainer.step(x, missing, warp, noise=seeded_noise())
    assert torch.equal(bounds.free_energy(trace(other, None)), bounds.free_energy(trace(other, warp)))


def test_heldout_scores_have_them_too():
    model = tiny_model(conditional=False)
    x, missing = images(4).mul(255).round().byte(), torch.ones(4, 1, 8, 8, dtype=torch.bool)
    found = heldout_scores(model, x, missing, seed=0, precision="float32")
    assert [[len(level) for level in stage] for stage in found["module_rates"]] == [[1, 2, 1]]


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_the_penalty_is_the_entropy_of_the_posterior_over_components_weighted_like_the_first_rate(share):
    model = tiny_model(conditional=False, **MIXED).requires_grad_(False)
    x, missing = images(6, binary=True), torch.ones(6, 1, 8, 8, dtype=torch.bool)
    weights = [share, 1.0, 1.0]
    losses = [float(Objective(model, 0.0, w)(x, missing, seeded_noise(), weights)[0]) for w in (0.0, 5.0)]
    trace = model(x, missing, seeded_noise())
    entropy = bounds.component_entropy(trace)
    latent = trace.latents[0]
    kls = [
        torch.distributions.kl_divergence(
            latent.q, torch.distributions.Normal(latent.p.normals.mean[:, i], latent.p.normals.stddev[:, i])
        ).sum((1, 2, 3))
        for i in range(3)
    ]
    r = (-torch.stack(kls, dim=1)).softmax(1)
    torch.testing.assert_close(entropy, -(r * r.log()).sum(1))
    assert (losses[1] - losses[0]) * model.config.dims == pytest.approx(5 * share * float(entropy.mean()), rel=1e-2)
    assert float(entropy.min()) > 0.1


def test_without_a_mixture_there_is_no_such_entropy():
    model = tiny_model(conditional=False)
    trace = model(images(6), torch.ones(6, 1, 8, 8, dtype=torch.bool), seeded_noise())
    assert torch.equal(bounds.component_entropy(trace), torch.zeros(6))


def test_a_penalty_on_it_makes_images_choose():
    def entropy_after(weight):
        trainer = trainer_of("mixture, gru", component_entropy=weight, kl_warmup=1)
        trainer.model.stages[0].generator.first.means.data.mul_(5)  # so far apart that few updates are enough
        for seed in range(15):
            trainer.step(*batch(trainer), noise=seeded_noise(seed))
        x, missing = batch(trainer)
        with torch.no_grad():
            return float(bounds.component_entropy(trainer.model(x.float() / 255, missing, seeded_noise())).mean())

    assert entropy_after(3.0) < 0.7 * entropy_after(0.0)


@kinds
def test_with_more_samples_their_bound_is_minimised(kind):
    trainer = trainer_of(kind, importance_samples=4)
    model = trainer.model
    x, missing = batch(trainer)
    x, noise = x.float() / 255, seeded_noise()
    with torch.no_grad():
        encoded = model.encode(x, missing, infer=True)
        traces = [model.decode(encoded, from_posterior(noise), noise) for _ in range(4)]
        bound = float(bounds.iwae_bound(traces).mean())
        one_by_one = float(torch.stack([-bounds.log_weight(trace) for trace in traces]).mean())
        first = float(bounds.free_energy(traces[0]).sum())
    loss, sums = Objective(model, importance_samples=4)(x, missing, seeded_noise(), [1.0] * 3)
    assert loss.item() * model.config.dims == pytest.approx(bound, rel=1e-4)
    assert bound < one_by_one
    assert float(sums[1:].sum()) == pytest.approx(first, rel=1e-4)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad.abs().max() > 0 for p in model.inference_parameters())


def test_until_rates_have_their_full_weight_it_is_the_free_energy():
    model = tiny_model(conditional=False).requires_grad_(False)
    x, missing, weights = images(4), torch.ones(4, 1, 8, 8, dtype=torch.bool), [0.5, 1.0, 1.0]
    one, four = (Objective(model, importance_samples=k)(x, missing, seeded_noise(), weights) for k in (1, 4))
    assert torch.equal(one[0], four[0]) and torch.equal(one[1], four[1])


def test_training_on_a_bound_of_several_samples_lowers_it_more():
    def bound_after(samples):
        trainer = trainer_of("unconditional", importance_samples=samples, kl_warmup=1, learning_rate=2e-3)
        for seed in range(40):
            trainer.step(*batch(trainer), noise=seeded_noise(seed))
        x, missing = batch(trainer)
        noise = seeded_noise()
        with torch.no_grad():
            return float(bounds.iwae_bound(trainer.model(x.float() / 255, missing, noise) for _ in range(200)).mean())

    assert bound_after(8) < bound_after(1)


def test_the_top_down_output_alone_is_weighed_with_the_distortion_it_would_have():
    model = tiny_model(autoregression=2, output="bernoulli", conditional=False)
    x, missing = images(4, binary=True), torch.ones(4, 1, 8, 8, dtype=torch.bool)
    ones = [1.0] * len(model.config.levels)
    plain, weighed = (Objective(model)(x, missing, seeded_noise(), ones, top_down_weight=w)[0] for w in (0.0, 0.5))
    alone = model.decode(model.encode(x, missing, infer=True), from_posterior(seeded_noise()), None, autoregress=False)
    expected = 0.5 * bounds.distortion(alone).mean() / model.config.dims
    assert (weighed - plain).item() == pytest.approx(expected.item(), rel=1e-4)


def test_that_weight_falls_to_nothing_in_the_course_of_the_run():
    trainer = trainer_of("autoregression", top_down_weight=0.4, updates=10)
    weights = []
    for update in (0, 5, 10):
        trainer.progress.update = update
        weights.append(trainer.top_down_weight())
    assert weights == [0.4, pytest.approx(0.05), 0.0]


def test_the_weight_of_the_top_down_output_reaches_the_update():
    moved = []
    for weight in (0.0, 5.0):
        trainer = trainer_of("autoregression", top_down_weight=weight)
        trainer.step(*batch(trainer), noise=seeded_noise())
        moved.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert not torch.allclose(*moved)


@pytest.mark.parametrize(
    ("model", "train", "says"),
    [
        ({"conditional": False}, {"mask": "random2x3"}, "mask is 'random2x3'; allowed: 'all'"),
        ({"conditional": False}, {"component_entropy": 0.5}, "component_entropy is 0.5; allowed: 0"),
        ({"conditional": False}, {"hinted": 0.5}, "hinted is 0.5; allowed: 0"),
        ({"image_size": 7, "levels": (Level(7, 4, 1),)}, {"fit": "patches"}, "fit is 'patches'; allowed: 'crop', 'squ"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(model, train, says):
    with pytest.raises(ConfigError, match=says):
        Trainer(tiny_model(**model), dataclasses.replace(CONFIG, **train), CPU)


# --- holes that are known at half the resolution ---------------------------------------------------------------------


def hinted_objective(monkeypatch, config, count=8):
    """What the updates of a trainer say of who is hinted."""
    place = list(inspect.signature(Objective.forward).parameters).index("hinted") - 1  # self is bound
    trainer, seen = Trainer(tiny_model().train(), config, torch.device("cpu")), []
    inner = trainer.objective.forward
    monkeypatch.setattr(trainer.objective, "forward", lambda *args: seen.append(args[place]) or inner(*args))
    for _ in range(count):
        trainer.step((images(config.batch) * 255).byte(), holes(config.batch))
    return seen


def test_as_many_images_are_hinted_as_the_configuration_says(monkeypatch):
    found = torch.stack(hinted_objective(monkeypatch, TrainConfig(updates=9, batch=32, hinted=0.3)))
    assert 0.2 < found.float().mean() < 0.4
    assert len({tuple(row) for row in found.tolist()}) == len(found)
    assert hinted_objective(monkeypatch, TrainConfig(updates=9, batch=4), 1) == [None]


def test_a_hinted_image_is_seen_with_its_own_half_resolution_in_the_hole(monkeypatch):
    model, x, missing = tiny_model(), images(2), holes(2)
    given = []
    inner = model.encode
    monkeypatch.setattr(model, "encode", lambda *args, **kind: given.append(kind["hint"]) or inner(*args, **kind))
    hinted = torch.tensor([True, False])
    Objective(model, prediction_weight=1.0)(x, missing, seeded_noise(), [1.0] * 3, hinted=hinted)
    whole, every_second = given
    torch.testing.assert_close(whole.image, enlarge_twice(halve(x)))
    assert whole.there[0].all() and not whole.there[1].any()
    assert every_second.there.shape[0] == 1 and every_second.there.all()


def test_a_hint_makes_the_hole_cheaper_once_it_is_learnt():
    torch.manual_seed(0)
    model = tiny_model().train()
    trainer = Trainer(model, TrainConfig(updates=150, batch=16, hinted=0.5, learning_rate=3e-3), torch.device("cpu"))
    smooth = torch.nn.functional.interpolate(images(64, size=2), size=8, mode="bilinear")
    for i in range(150):
        rows = torch.arange(16 * i, 16 * i + 16) % 64
        trainer.step((smooth[rows] * 255).byte(), holes(16, seed=i))
    x, missing = smooth[:32], holes(32, seed=999)
    with torch.no_grad():
        costs = [
            Objective(model)(x, missing, seeded_noise(), [1.0] * 3, hinted=torch.full((32,), hinted))[0]
            for hinted in (True, False)
        ]
    assert costs[0] < 0.97 * costs[1]
