"""Samples are the model's own; what is kept is kept and nothing else is; clusters are measured as is the custom."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import images, tiny_model

from matfill import exploring
from matfill.config import Level
from matfill.distributions import component_posterior
from matfill.errors import ConfigError, DataError
from matfill.noise import row_noise
from matfill.stacks import from_posterior

VARIANTS = {
    "plain": {},
    "binary": {"output": "bernoulli"},
    "gaussian": {"output": "gaussian"},
    "ladder": {"ladder": True},
    "autoregression": {"autoregression": 2, "autoregression_channels": 4, "image_size": 4, "levels": (Level(1, 6, 2),)},
    "fully connected": {"levels": (Level(1, 6, 2, modules=4),), "update": "gru"},
    "mixture": {"prior_components": 3},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def build(variant, **changes):
    """An untrained model whose every distribution is far from its start, where all inputs look alike."""
    model = tiny_model(conditional=False, **VARIANTS[variant] | changes)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def ones(model):
    return (1.0,) * len(model.config.levels)


def unit(model, batch, seed=0):
    size = model.config.image_size
    return images(batch, model.config.image_channels, size, binary=model.config.output == "bernoulli", seed=seed)


# --- samples ---------------------------------------------------------------------------------------------------------


@variants
def test_samples_are_what_the_model_draws(variant, monkeypatch):
    monkeypatch.setattr(exploring, "BATCH", 3)
    model = build(variant)
    drawn = exploring.sample(model, 3, seed=4, temperature=ones(model))
    x = torch.zeros(3, 3, *drawn.shape[1:3])
    with torch.inference_mode():
        noise = row_noise([(4, 0, i) for i in range(3)])
        expected = model.sample(x, torch.ones_like(x[:, :1], dtype=torch.bool), noise, ones(model))
    assert (drawn == expected.movedim(1, -1).mul(255).round().numpy()).all()
    assert (drawn[0] != drawn[1]).any()
    if variant == "binary":
        assert set(np.unique(drawn)) == {0, 255}


@variants
def test_a_sample_depends_on_its_seed_and_number_alone(variant, monkeypatch):
    monkeypatch.setattr(exploring, "BATCH", 4)
    model = build(variant)
    many, few = (exploring.sample(model, n, seed=1, temperature=ones(model)) for n in (6, 5))
    assert len(many) == 6
    assert (many[:5] == few).all()
    assert (exploring.sample(model, 5, seed=2, temperature=ones(model)) != few).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("variant", ["plain", "binary"])
def test_means_are_means_and_at_temperature_zero_all_the_same(variant):
    model = build(variant)
    means = exploring.sample(model, 4, seed=1, temperature=(0.0, 0.0, 0.0), means=True)
    assert (means == means[:1]).all()
    assert not set(np.unique(means)) <= {0, 255}
    if variant == "binary":  # 6.4 is a standard error of 400 that are half black, half white
        drawn = exploring.sample(model, 400, seed=1, temperature=(0.0, 0.0, 0.0)).mean(axis=0, dtype=np.float64)
        assert drawn == pytest.approx(means[0].astype(float), abs=5 * 6.4)
        assert np.abs(drawn - means[0]).mean() < 6.4


def test_conditional_models_are_refused():
    with pytest.raises(ConfigError, match="mine is a conditional model, it only fills holes: use matfill inpaint"):
        exploring.require_unconditional(tiny_model(), "mine")
    exploring.require_unconditional(build("plain"), "mine")


# --- keeping the first latents ---------------------------------------------------------------------------------------


@variants
def test_only_the_first_latents_come_from_the_posterior(variant):
    """At temperature 0 those after them are at the prior's mean: other noise changes what is kept, and only that."""
    model = build(variant)
    x = unit(model, 2)
    latents = sum(level.modules for level in model.config.levels)
    missing = torch.ones_like(x[:, :1], dtype=torch.bool)
    with torch.inference_mode():
        encoded = dataclasses.replace(model.encode(x, missing, infer=True), infer=False)
        zero = (0.0,) * len(model.config.levels)
        for keep in range(latents + 1):
            noise = row_noise([(0, i) for i in range(2)])
            trace = model.decode(encoded, exploring.keeping(noise, keep, zero), noise)
            for i, latent in enumerate(trace.latents):
                if i < keep:
                    assert not torch.isclose(latent.z, latent.q.mean).any()
                elif i or variant != "mixture":  # of a mixture, which component is left to chance
                    assert (latent.z == latent.p.mean).all()


@variants
def test_an_image_is_seen_through_its_kept_latents_only(variant):
    model = build(variant)
    one, other = unit(model, 2), unit(model, 2, seed=5)
    seeds = [(0, 0), (0, 1)]

    def beside(x, keep):
        return exploring.resample(model, x, keep, seeds, ones(model), True).astype(int)

    assert (beside(one, 0) == beside(other, 0)).all()
    latents = sum(level.modules for level in model.config.levels)
    assert (beside(one, latents) != beside(other, latents)).any()


def test_with_all_latents_kept_the_sample_is_the_reconstruction():
    model, noise = build("plain"), row_noise([(3, 0)])
    x = unit(model, 1)
    with torch.inference_mode():
        encoded = model.encode(x, torch.ones_like(x[:, :1], dtype=torch.bool), infer=True)
        trace = model.decode(encoded, from_posterior(noise), noise)
        expected = model.compose(x, trace).mul(255).round().movedim(1, -1).numpy()
    assert (exploring.resample(model, x, 4, [(3, 0)], ones(model), True) == expected).all()


@pytest.mark.parametrize(
    ("latents", "kept"), [(1, (1,)), (2, (1, 2)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (11, (1, 2, 4, 8, 11))]
)
def test_kept_latents_double(latents, kept):
    assert exploring.doublings(latents) == kept


# --- clusters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"ladder": True}, {"levels": (Level(4, 4, 1, modules=2),)}])
def test_log_odds_are_those_of_the_posterior_over_components(changes):
    model = build("mixture", **changes)
    x = unit(model, 5)
    missing = torch.ones_like(x[:, :1], dtype=torch.bool)
    with torch.inference_mode():
        first = model(x, missing, row_noise([(i,) for i in range(5)])).latents[0]
        probs = component_posterior(first.q, first.p).probs
    assert torch.allclose(exploring.component_log_odds(model, x).sigmoid(), probs, atol=1e-5)
    assert exploring.component_log_odds(build("plain"), x) is None


def test_certainty_is_told_apart_where_probabilities_are_all_one():
    model = build("mixture")
    with torch.no_grad():
        for parameter in model.stages[0].generator.first.parameters():
            parameter.mul_(100)
    odds = exploring.component_log_odds(model, unit(model, 8))
    assert (odds.amax(1).sigmoid() == 1).sum() > 1
    assert len(odds.amax(1).unique()) == 8


A, B = [0, 0, 0, 1, 1, 1], [5, 5, 7, 7, 7, 7]
CASES = [
    (A, A, 1.0, 1.0),
    (A, [9, 9, 9, 2, 2, 2], 1.0, 1.0),  # names do not matter
    (A, [0] * 6, 1.0, 0.0),
    ([0] * 6, A, 0.5, 0.0),
    ([0] * 6, [3] * 6, 1.0, 1.0),
    ([0, 0, 1, 1], [0, 1, 0, 1], 0.5, 0.0),
    (A, B, 5 / 6, 2 * 0.318257 / (0.693147 + 0.636514)),
]


@pytest.mark.parametrize(("clusters", "labels", "purity", "information"), CASES)
def test_purity_and_information_of_cases_done_by_hand(clusters, labels, purity, information):
    clusters, labels = np.array(clusters), np.array(labels)
    assert exploring.purity(clusters, labels) == pytest.approx(purity)
    assert exploring.normalised_mutual_information(clusters, labels) == pytest.approx(information, abs=1e-5)


def test_information_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    for classes in (1, 2, 7, 40):
        labels = draw.integers(0, classes, 300)
        for clusters in (labels, labels // 2, (labels + draw.integers(0, 2, 300)) % 5, draw.integers(0, 50, 300)):
            expected = metrics.normalized_mutual_info_score(labels, clusters)
            assert exploring.normalised_mutual_information(clusters, labels) == pytest.approx(expected, abs=1e-9)


# --- figure 3 --------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """A file of 40 test images, with labels: bright ones and dark ones."""
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.repeat([3, 8], 20))
    test = (draw.integers(0, 80, (40, 8, 8, 3)) + np.where(labels == 8, 170, 0)[:, None, None, None]).astype(np.uint8)
    path = tmp_path / "set.npz"
    np.savez(path, train=test[:4], train_labels=labels[:4], test=test, test_labels=labels)
    return path


def explore(model, data, **options):
    return exploring.explore(model, {}, data, **{"temperature": ones(model), "groups": 2, "columns": 3, **options})


def by_brightness(model, x):
    """Log-odds of three components, as if they went by brightness; nothing belongs to the last."""
    bright = 20 * (x.mean((1, 2, 3)) - 0.5)
    return torch.stack([bright, -bright, torch.full_like(bright, -99)], dim=1)


def test_components_show_their_most_certain_images_and_agree_with_labels(data, monkeypatch):
    monkeypatch.setattr(exploring, "component_log_odds", by_brightness)
    found = explore(build("mixture"), data)
    assert [group.members for group in found.groups] == [20, 20]
    assert sorted(group.component for group in found.groups) == [0, 1]
    assert (found.images, found.components, found.used, found.classes) == (40, 3, 2, 2)
    assert (found.purity, found.information) == (1, pytest.approx(1))
    assert found.kept == (1, 2, 4)
    with np.load(data) as arrays:
        means = np.sort(arrays["test"].mean((1, 2, 3)))
    for group in found.groups:
        shown = [column[0].mean() for column in group.columns]
        assert shown == pytest.approx(means[:3] if group.component else means[:-4:-1])
        assert all(len(column) == 4 and column[-1].shape == (8, 8, 3) for column in group.columns)


def test_without_a_mixture_there_are_samples_only(data):
    found = explore(build("plain"), data, count=4)
    assert [(group.component, group.members, len(group.columns)) for group in found.groups] == [
        (None, 4, 3),
        (None, 4, 1),
    ]
    assert (found.components, found.classes, found.purity, found.information) == (1, None, None, None)
    again = explore(build("plain"), data, count=4)
    assert all((a == b).all() for a, b in zip(found.groups[1].columns[0], again.groups[1].columns[0], strict=True))


def test_binary_models_see_binary_images(data):
    columns = [column for group in explore(build("binary"), data, count=4).groups for column in group.columns]
    assert {int(value) for column in columns for cell in column for value in np.unique(cell)} == {0, 255}


def test_there_have_to_be_test_images(tmp_path):
    np.savez(tmp_path / "set.npz", train=np.zeros((9, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="has no test images"):
        explore(build("plain"), tmp_path / "set.npz")
