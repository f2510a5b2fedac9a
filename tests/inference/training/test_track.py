"""Following log p(x) in training, and fitting a guide to a model that was trained without one."""

import torch
from worlds import make

from aevb.inference import MCEM, fit, log_evidence
from aevb.inference.evidence import ELBO
from aevb.inference.training.fit_guide import fit_guide
from aevb.inference.training.settings import Training
from aevb.inference.training.track import Track

SHORT = {"batch_size": 5, "progress": False, "compile": "never", "device": "cpu"}


def _pair():
    world = make("linear_vector")
    return world.model, world.guide, world.x[:5]


def _epochs(run):
    return [row["epoch"] for row in run.rows if "log_px" in row]


def test_estimates_are_spaced_on_the_log_axis_and_end_with_the_run():
    model, guide, x = _pair()
    watch = Track(ELBO(2), {"log_px": x[:2]})
    run = fit(model, guide, x, epochs=7, observers=[watch], **SHORT)
    assert _epochs(run) == [1, 2, 4, 7]
    evidence = log_evidence(run.model, run.guide, x[:2], ELBO(2))
    told = run.rows[-1]["log_px"], run.rows[-1]["log_px_error"]
    assert told == (evidence.mean, evidence.standard_error)
    again = fit(*_pair(), epochs=7, observers=[watch], **SHORT)  # whose marks begin anew
    assert _epochs(again) == [1, 2, 4, 7]


def test_a_resumed_run_goes_on_with_its_marks(tmp_path):
    for epochs in (3, 7):
        watch = Track(ELBO(2), {"log_px": _pair()[2]})
        run = fit(*_pair(), epochs=epochs, observers=[watch], checkpoint=tmp_path / "c", resume=True, **SHORT)
    assert _epochs(run) == [1, 2, 3, 6, 7]


def test_a_guide_is_fitted_to_a_finished_model_that_stays_as_it_is():
    model, guide, x = _pair()
    run = fit(model, None, x, objective=MCEM(), steps=2, **SHORT)
    before = {name: value.clone() for name, value in run.pair.model.state_dict().items()}
    paired = fit_guide(run, guide, x, Training(steps=3, **SHORT))
    after = paired.pair.model.state_dict()
    assert before and all(torch.equal(after[name], value) for name, value in before.items())
    assert paired.guide is not None and paired.objective is run.objective
    assert paired.rows == run.rows and paired.settings == run.settings
