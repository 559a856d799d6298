"""The loss, the experiment and the reward of CONTRIBUTING.md work as written, without an edit of this project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from launch.cli.compose import compose, load
from recipes.training_run import train

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "CONTRIBUTING.md").read_text()
LOSS, LOSS_TEST, REWARD, *_ = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
LOSS_YAML, EXPERIMENT, *_ = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the document's files to a user's own package and configuration directory."""
    files = {
        "my_package/pairwise_hinge.py": LOSS,
        "my_conf/loss/pairwise_hinge.yaml": LOSS_YAML,
        "my_conf/exp/reranker_hinge.yaml": EXPERIMENT,
        "tests/test_pairwise_hinge.py": LOSS_TEST,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace("losses.pairwise_hinge", "my_package.pairwise_hinge"))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run_pytest(written: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    selected = ["tests/losses/test_properties.py", "--config-dir", str(written / "my_conf"), *arguments]
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "no:cacheprovider", "-q", *selected]
    environment = {**os.environ, "PYTHONPATH": str(written)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_property_tests_and_the_loss_s_own_test_pass(written: Path):
    done = run_pytest(written, str(written / "tests"))
    assert done.returncode == 0, done.stdout
    assert "files of conf/loss tested: 1 (1 list)" in done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout).group(1)) > 20


def test_the_property_tests_fail_for_a_loss_that_forgets_the_mask(written: Path):
    module = written / "my_package" / "pairwise_hinge.py"
    module.write_text(module.read_text().replace("label_pairs(labels, mask)", "label_pairs(labels, mask | True)"))
    done = run_pytest(written, "-k", "test_padding")
    assert "FAILED tests/losses/test_properties.py::test_padding[pairwise_hinge]" in done.stdout


def test_the_experiment_trains(written: Path, tiny_run: list[str]):
    run = ["+exp=reranker_hinge", "loss.margin=0.5", *tiny_run, "trainer.max_steps=2"]
    settings = load(run, config_dir=written / "my_conf")
    assert (settings.run_name, settings.loss.margin) == ("reranker_hinge", 0.5)
    assert load(["+exp=reranker_hinge"], config_dir=written / "my_conf").trainer.max_steps == 500
    train(settings)
    assert (written / "outputs" / "reranker_hinge" / "summary.json").is_file()


def test_a_wrong_option_of_the_new_loss_is_refused(written: Path):
    with pytest.raises(ValueError, match=r"^loss.margn is not an option: did you mean margin\? valid: margin$"):
        compose(["+exp=reranker_hinge", "loss.margn=0.5"], config_dir=written / "my_conf")


def test_the_reward_is_a_reward_with_an_option(monkeypatch: pytest.MonkeyPatch):
    module = ModuleType("rewards_of_the_document")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(REWARD, "CONTRIBUTING.md", "exec"), module.__dict__)
    node = "{_target_: rewards_of_the_document.first_is_relevant, grade: 2}"
    overrides = ["loss=plackett_luce_grpo", f"loss.reward={node}", "loss.reward_to_go=false"]
    reward = load(overrides).loss.reward
    labels = torch.tensor([1.0, 2.0])
    assert reward(torch.tensor([[0, 1], [1, 0]]), labels, labels > 0).tolist() == [0.0, 1.0]
