"""The loss and the experiment that CONTRIBUTING.md shows work as written, without an edit of this project."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from launch.compose import compose, instantiate

DOCUMENT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    """The document's files: its module as `losses.hinge`, its YAML files in a configuration directory."""
    code = PYTHON[0]
    loss, experiment = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    module = ModuleType("losses.hinge")
    monkeypatch.setitem(sys.modules, "losses.hinge", module)
    exec(compile(code, "CONTRIBUTING.md", "exec"), module.__dict__)
    for name, text in (("loss/hinge.yaml", loss), ("exp/reranker_hinge.yaml", experiment)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_reward_is_a_reward_with_an_option(monkeypatch):
    module = ModuleType("rewards_of_the_document")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(PYTHON[1], "CONTRIBUTING.md", "exec"), module.__dict__)
    node = "{_target_: rewards_of_the_document.first_is_relevant, grade: 2}"
    reward = instantiate(compose([f"loss.reward={node}", "loss.reward_to_go=false"])).loss.reward
    labels = torch.tensor([1.0, 2.0])
    assert reward(torch.tensor([[0, 1], [1, 0]]), labels, labels > 0).tolist() == [0.0, 1.0]


def test_the_loss_and_the_experiment_run(written):
    run = instantiate(compose(["+exp=reranker_hinge", "loss.margin=0.5"], config_dir=written))
    run.trainer.check(run.loss)
    assert (run.run_name, run.trainer.max_steps, run.loss.margin) == ("reranker_hinge", 500, 0.5)
    scores = torch.tensor([1.0, 0.75, 9.0], requires_grad=True)
    loss = run.loss(scores, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([True, True, False]))
    loss.backward()
    assert loss.item() == 0.25
    assert scores.grad.tolist() == [-1.0, 1.0, 0.0]


def test_a_wrong_option_of_the_new_loss_is_refused(written):
    with pytest.raises(ValueError, match=r"^loss.margn is not an option: did you mean margin\? valid: margin$"):
        compose(["+exp=reranker_hinge", "loss.margn=0.5"], config_dir=written)
