"""Recipes: each is a model that can be built and trained as it says, and whose weights stay small."""

from dataclasses import fields

import pytest
import torch

from matfill.config import OUTPUTS, ModelConfig, TrainConfig
from matfill.errors import ConfigError
from matfill.model import MatNet
from matfill.recipes import RECIPES, recipe
from matfill.training import new_config, resumed_config

LARGEST = {"faces": 11, "photos": 16, "heritage": 12, "cifar10": 12}  # MiB in float16; of all others 6
DATA = {"mnist": (28, 1), "binarized-mnist": (28, 1), "omniglot": (28, 1), "cifar10": (32, 3)}
DATA |= dict.fromkeys(("celeba64", "photos", "heritage64"), (64, 3))
every_recipe = pytest.mark.parametrize("name", RECIPES)


@every_recipe
def test_its_weights_are_small(name):
    model, _ = recipe(name)
    with torch.device("meta"):
        tensors = MatNet(model).state_dict().values()
    assert 2 * sum(tensor.numel() for tensor in tensors) < LARGEST.get(name, 6) * 2**20


@every_recipe
def test_its_model_and_its_training_go_together(name):
    model, config = recipe(name)
    config.require_fit(model)
    assert model.output in OUTPUTS
    assert all(level.channels % 16 == 0 for level in model.levels)  # the fast widths


def test_a_change_that_does_not_go_with_the_model_is_refused_before_any_data_are_read():
    with pytest.raises(ConfigError, match="mask is 'left'; allowed: 'all'"):
        new_config("mnist", False, None, {"mask": "left"}, torch.device("cpu"))
    assert new_config("mnist", True, None, {}, torch.device("cpu"))[0].branch_scale == 1


def test_names_tell_changes_of_the_model_from_those_of_training():
    cpu = torch.device("cpu")
    model, config = new_config("mnist-ar", True, None, {"autoregression": 0, "branch_scale": 0.5, "batch": 7}, cpu)
    assert (model.autoregression, model.branch_scale, model.flat_channels, config.batch) == (0, 0.5, 0, 7)
    levels = [{"size": 1, "channels": 16, "latents": 2}, {"size": 28, "channels": 16, "latents": 1, "modules": 2}]
    assert [level.modules for level in new_config("mnist", False, None, {"levels": levels}, cpu)[0].levels] == [1, 2]
    assert not {field.name for field in fields(ModelConfig)} & {field.name for field in fields(TrainConfig)}
    with pytest.raises(ConfigError, match="ladder is True; allowed: False with conditional True"):
        new_config("quadrants", False, None, {"ladder": True}, cpu)
    with pytest.raises(ConfigError, match=r"no setting 'ladders'.* ema.* ladder,"):
        new_config("mnist", False, None, {"ladders": True}, cpu)
    with pytest.raises(ConfigError, match="the model is the one that the weights describe"):
        new_config("mnist", True, model, {}, cpu)
    warm, _ = new_config("mnist", False, model, {"autoregression": 5}, cpu)
    assert (warm.autoregression, warm.branch_scale, warm.flat_channels) == (5, 0.5, 0)
    with pytest.raises(ConfigError, match="this run has stages 1, not 2"):
        resumed_config(recipe("quadrants")[0], config, {"stages": 2})


def test_a_recipe_warps_images_only_for_a_model_that_is_told():
    cpu = torch.device("cpu")
    told, config = new_config("mnist-ar", False, None, {}, cpu)
    assert told.sees_warp and config.warp == 0.1
    untold, config = new_config("mnist-ar", False, recipe("mnist")[0], {"autoregression": 5}, cpu)
    assert not untold.sees_warp and config.warp == 0
    for paper, changes in ((True, {}), (False, {"sees_warp": False})):
        assert new_config("mnist-ar", paper, None, changes, cpu)[1].warp == 0
        assert new_config("mnist-ar", paper, None, changes | {"warp": 0.2}, cpu)[1].warp == 0.2


@every_recipe
def test_its_docstring_has_its_command(name):
    doc = RECIPES[name].__doc__
    (data,) = [data for data in DATA if f"`matfill train {data} --recipe {name}`" in doc]
    assert DATA[data] == (recipe(name)[0].image_size, recipe(name)[0].image_channels)


def test_the_papers_unconditional_models_have_as_many_latents_as_they_should():
    modules = {name: [level.modules for level in recipe(name)[0].levels] for name in RECIPES}
    assert modules["mnist"] == modules["omniglot"] == modules["omniglot-gmm"] == [1, 5, 5]
    assert recipe("omniglot-gmm")[0].prior_components == 50
    assert recipe("mnist-ar")[0].autoregression and not recipe("mnist")[0].autoregression
    assert [level.size for level in recipe("mnist-fc")[0].levels] == [1]
