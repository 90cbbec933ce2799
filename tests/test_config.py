"""Configurations: the round trip through JSON, and one clear ConfigError for whatever cannot be meant."""

import dataclasses
import json
import math

import pytest
from tiny import tiny_config

from matfill.config import Level, ModelConfig, TrainConfig
from matfill.errors import ConfigError
from matfill.recipes import RECIPES, recipe

TRAIN = TrainConfig(updates=10)
CONFIGS = [
    Level(size=4, channels=3, latents=2, modules=5),
    tiny_config(stages=1, output="gaussian", fill="mean"),
    tiny_config(conditional=False, update="gru", shared_modules=True, prior_components=7),
    tiny_config().paper(),
    TRAIN,
    TrainConfig(minutes=1.5, betas=(0.5, 0.9), flip=True, precision="bfloat16"),
    TrainConfig(updates=3, mask="all", component_entropy=0.5, own_samples_every=2, own_samples_from=9),
    TrainConfig(updates=3, own_samples_every=1, own_latents=True, inference_only=True),
]


def through_json(config):
    return type(config).from_dict(json.loads(json.dumps(config.to_dict())))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_config_comes_back_from_json_as_it_was(config):
    assert through_json(config) == config
    assert hash(through_json(config)) == hash(config)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_come_back_from_json(name):
    for config in recipe(name):
        assert through_json(config) == config


def test_an_unknown_recipe_is_told_the_known_ones():
    with pytest.raises(ConfigError, match=r"'landscapes'.*faces"):
        recipe("landscapes")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_an_unknown_key_is_refused_by_name(config):
    with pytest.raises(ConfigError, match="chanels") as error:
        type(config).from_dict({**config.to_dict(), "chanels": 1})
    assert all(field.name in str(error.value) for field in dataclasses.fields(config))


def test_an_unknown_key_inside_a_level_is_refused():
    values = tiny_config().to_dict()
    values["levels"][1]["width"] = 3
    with pytest.raises(ConfigError, match=r"Level.*'width'"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize("absent", ["image_size", "image_channels", "levels"])
def test_an_absent_key_is_named(absent):
    values = tiny_config().to_dict()
    del values[absent]
    with pytest.raises(ConfigError, match=f"ModelConfig.*'{absent}'"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize("values", [None, [], "faces", 3])
def test_what_is_no_dict_is_refused(values):
    with pytest.raises(ConfigError, match="ModelConfig"):
        ModelConfig.from_dict(values)


def assert_refused(config, field, value):
    """By the constructor and by from_dict, in one line that names the field, the value and what is allowed."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)} | {field: value}
    for build in (type(config), lambda **values: type(config).from_dict(values)):
        with pytest.raises(ConfigError) as error:
            build(**values)
        start, _, allowed = str(error.value).partition("; allowed: ")
        assert start.startswith(f"{type(config).__name__}.{field} is ")
        assert allowed and "\n" not in allowed
        if not isinstance(value, list | tuple):
            assert repr(value) in start


WHOLE = [0, -1, 8.0, "8", True, None, math.nan, [8]]


@pytest.mark.parametrize("value", WHOLE)
@pytest.mark.parametrize("field", ["size", "channels", "latents", "modules"])
def test_levels_take_whole_numbers_from_1(field, value):
    assert_refused(Level(4, 4, 4), field, value)


@pytest.mark.parametrize("value", WHOLE)
@pytest.mark.parametrize("field", ["image_size", "image_channels", "stages", "mixtures", "prior_components"])
def test_counts_are_whole_numbers_from_1(field, value):
    assert_refused(tiny_config(), field, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_channels", 2),
        ("stages", 3),
        ("output", "laplace"),
        ("output", None),
        ("update", "lstm"),
        ("update", True),
        ("conditional", None),
        ("conditional", 1),
        ("shared_modules", "yes"),
        ("prior_components", 2),
        ("ladder", True),
        ("ladder", 0),
        ("autoregression", -1),
        ("autoregression_channels", 0),
        ("fill", "black"),
        ("fill", 0),
        ("flat_channels", -1),
        ("flat_channels", 1.5),
        ("branch_scale", 0.0),
        ("branch_scale", math.nan),
        ("branch_scale", math.inf),
        ("branch_scale", True),
        ("channel_coupling", 1),
        ("pixel_shuffle", "yes"),
        ("narrow_concat", None),
        ("output_channels", -1),
        ("output_channels", 2.5),
        ("sees_warp", 0.1),
        ("levels", []),
        ("levels", ()),
        ("levels", None),
        ("levels", 4),
        ("levels", "1/8/16"),
        ("levels", [1, 2, 4]),
    ],
)
def test_a_model_refuses(field, value):
    assert_refused(tiny_config(), field, value)


@pytest.mark.parametrize(
    ("field", "value"), [("stages", 2), ("merge_to_top_down", True), ("prior_components", 0), ("conditional", 0)]
)
def test_an_unconditional_model_refuses(field, value):
    assert_refused(tiny_config(conditional=False), field, value)


@pytest.mark.parametrize(("field", "value"), [("update", "gru"), ("sees_warp", True), ("conditional", True)])
def test_a_ladder_network_is_an_unconditional_model_with_updates_of_its_own(field, value):
    config = tiny_config(conditional=False, ladder=True)
    with pytest.raises(
        ConfigError, match=r"ModelConfig\.(update|sees_warp|ladder) is .*; allowed: .* with (ladder|conditional) True"
    ):
        dataclasses.replace(config, **{field: value})


def test_output_channels_are_of_a_layer_that_pixel_shuffle_brings():
    assert tiny_config(output_channels=9).output_channels == 9
    assert_refused(tiny_config(pixel_shuffle=False), "output_channels", 9)


def test_autoregression_needs_an_output_that_it_knows():
    with pytest.raises(
        ConfigError, match="autoregression is 5; allowed: 0 with output 'gaussian'; or output bernoulli"
    ):
        tiny_config(output="gaussian", autoregression=5)
    for output in ("bernoulli", "logistic"):
        assert tiny_config(output=output, autoregression=5).autoregression == 5


def test_an_unconditional_model_takes_images_that_are_missing_as_a_whole():
    model = tiny_config(conditional=False)
    with pytest.raises(ConfigError, match=r"TrainConfig\.mask is 'random3x20'; allowed: 'all'"):
        TRAIN.require_fit(model)
    dataclasses.replace(TRAIN, mask="all").require_fit(model)
    TRAIN.require_fit(tiny_config())


def test_there_is_no_posterior_over_the_components_of_no_mixture():
    config = dataclasses.replace(TRAIN, mask="all", component_entropy=0.1)
    with pytest.raises(ConfigError, match=r"component_entropy is 0\.1; allowed: 0 .* prior_components is 1"):
        config.require_fit(tiny_config(conditional=False))
    config.require_fit(tiny_config(conditional=False, prior_components=2))


@pytest.mark.parametrize("sizes", [(4, 2), (4, 4), (2, 3), (3,), (1, 16), (1, 2, 3), (1, 1)])
def test_level_sizes_that_cannot_be_joined_are_refused(sizes):
    levels = tuple(Level(size, 4, 1) for size in sizes)
    with pytest.raises(ConfigError, match=r"levels.*image_size 8"):
        tiny_config(levels=levels)


@pytest.mark.parametrize("sizes", [(1,), (8,), (1, 2, 8), (2, 4), (1, 4, 8)])
def test_level_sizes_that_can_be_joined_are_taken(sizes):
    tiny_config(levels=tuple(Level(size, 4, 1) for size in sizes))


@pytest.mark.parametrize("output", ["bernoulli", "gaussian"])
def test_only_logistics_are_mixed(output):
    with pytest.raises(ConfigError, match=rf"mixtures is 2.*{output}"):
        tiny_config(output=output, mixtures=2)
    assert tiny_config(output="logistic", mixtures=2).mixtures == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 0),
        ("batch", 2.0),
        ("batch", "32"),
        ("updates", 0),
        ("updates", 1.5),
        ("updates", False),
        ("seed", -1),
        ("seed", None),
        ("precision", "float16"),
        ("learning_rate", 0),
        ("learning_rate", -1e-3),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", "1e-3"),
        ("learning_rate", None),
        ("muon_learning_rate", -0.1),
        ("muon_learning_rate", math.nan),
        ("betas", 0.9),
        ("betas", (0.9,)),
        ("betas", [0.9, 0.99, 0.999]),
        ("betas", (0.9, "0.99")),
        ("betas", (0.9, 1.0)),
        ("eps", 0.0),
        ("weight_decay", -0.1),
        ("warmup", -1),
        ("warmup", 0.5),
        ("decay", 1.5),
        ("kl_warmup", -1),
        ("prediction_weight", -1.0),
        ("importance_samples", 0),
        ("importance_samples", 1001),
        ("component_entropy", -0.1),
        ("component_entropy", math.nan),
        ("own_samples_every", -1),
        ("own_samples_every", 1.0),
        ("own_samples_from", -1),
        ("own_latents", True),
        ("own_latents", 1),
        ("inference_only", 1),
        ("ema", 1.0),
        ("ema", math.nan),
        ("clip", 0.0),
        ("skip", 1.0),
        ("flip", 1),
        ("warp", -0.1),
        ("warp", 0.4),
        ("warp_share", -0.1),
        ("warp_share", 1.1),
        ("holdout", 0),
        ("checkpoint_minutes", 0),
        ("mask", 20),
    ],
)
def test_training_refuses(field, value):
    assert_refused(TRAIN, field, value)


@pytest.mark.parametrize("length", [{}, {"updates": 5, "minutes": 5.0}])
def test_exactly_one_length_bounds_a_run(length):
    with pytest.raises(ConfigError, match=r"updates.*minutes"):
        TrainConfig(**length)


@pytest.mark.parametrize("minutes", [0, -1.0, math.nan, math.inf, "10", True])
def test_minutes_are_a_number_above_0(minutes):
    with pytest.raises(ConfigError, match="minutes"):
        TrainConfig(minutes=minutes)


def test_a_whole_number_may_stand_for_any_number():
    assert TrainConfig(minutes=10, learning_rate=1).minutes == 10


def test_paper_turns_every_improvement_off():
    """And leaves what the model is for alone."""
    config = tiny_config(mixtures=3, stages=1, autoregression=2, update="gru", shared_modules=True)
    config = dataclasses.replace(config, output_channels=9, sees_warp=True)
    paper = config.paper()
    names = [field.name for field in dataclasses.fields(config)]
    kept = {name for name in names if getattr(config, name) == getattr(paper, name)}
    assert kept == set(names[: names.index("mixtures")])
    assert not any(getattr(paper, name) is True for name in names[names.index("mixtures") :])
    assert paper.paper() == paper


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TRAIN.batch = 2


def test_dims_counts_values():
    assert tiny_config().dims == 8 * 8 * 3
    assert tiny_config(image_channels=1).dims == 64
