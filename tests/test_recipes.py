"""Recipes: each is a model that can be built and trained as it says, and whose weights stay small."""

import pytest
import torch

from matfill.config import OUTPUTS
from matfill.errors import ConfigError
from matfill.model import MatNet
from matfill.recipes import RECIPES, recipe
from matfill.training import new_config

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


@every_recipe
def test_its_docstring_has_its_command(name):
    doc = RECIPES[name].__doc__
    (data,) = [data for data in DATA if f"`matfill train {data} --recipe {name}`" in doc]
    assert DATA[data] == (recipe(name)[0].image_size, recipe(name)[0].image_channels)


def test_the_papers_unconditional_models_have_as_many_latents_as_they_should():
    modules = {name: [level.modules for level in recipe(name)[0].levels] for name in RECIPES}
    assert modules["mnist"] == modules["mnist-ar"] == modules["omniglot"] == modules["omniglot-gmm"] == [1, 5, 5]
    assert recipe("omniglot-gmm")[0].prior_components == 50
    assert recipe("mnist-ar")[0].autoregression and not recipe("mnist")[0].autoregression
    assert [level.size for level in recipe("mnist-fc")[0].levels] == [1]
