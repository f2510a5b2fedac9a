"""Everything that looks at a finished thing takes a run or a checked pair, and says so where it is given another."""

import inspect

import pytest
import torch
from worlds import make

import aevb.inference
from aevb.inference import Pair, Run, fit, latent_usage
from aevb.inference.diagnostics.every_estimator import every_estimator
from aevb.inference.pairs import predictive
from aevb.inference.pairs.finished import checked
from aevb.inference.posterior.guide_versus_hmc import guide_versus_hmc

PUBLIC = [getattr(aevb.inference, name) for name in aevb.inference.__all__]
PUBLIC += [getattr(predictive, name) for name in predictive.__all__] + [every_estimator, guide_versus_hmc]
LOOK = [thing for thing in PUBLIC if inspect.isfunction(thing) and "pair" in inspect.signature(thing).parameters]
X = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))


def test_the_list_holds_what_looks_at_a_finished_thing():
    known = {"verdict", "gaps", "refine", "check_model", "latent_usage", "elbo_surgery", "simulation_based_calibration"}
    known |= {"loo", "gradient_microscope", "guide_draws", "hmc_draws", "generate", "reconstruct", "infer", "impute"}
    assert known <= {function.__name__ for function in LOOK}
    assert all(next(iter(inspect.signature(function).parameters)) == "pair" for function in LOOK)


@pytest.mark.parametrize("function", LOOK, ids=lambda function: function.__name__)
@pytest.mark.parametrize("given", ["a model", "an unchecked pair", "a run of one"])
def test_what_is_no_finished_thing_is_told(function, given):
    model = torch.nn.Linear(3, 1)
    thing = {"a model": model, "an unchecked pair": Pair(model), "a run of one": Run(Pair(model), None)}[given]
    needed = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty][1:]
    with pytest.raises(ValueError) as caught:
        function(thing, **dict.fromkeys(needed, X))
    mend = r"Pair(model, guide).check(x)" if given == "a model" else "call pair.check(x)"
    assert mend in str(caught.value)


def test_a_run_gives_what_its_pair_gives():
    world = make("linear_vector")
    x = world.x[:5]
    run = fit(world.model, world.guide, x, steps=2, batch_size=5, progress=False)
    assert checked(run) is checked(run.pair) is run.pair
    for function in (latent_usage, predictive.infer, predictive.reconstruct):
        assert str(function(run, x)) == str(function(run.pair, x))
