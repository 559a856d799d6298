"""The examples of CONTRIBUTING.md work as written, without an edit: loss, experiment, reward, objective family, engine.

The file format is tried in tests/data/formats/test_file_format.py, the kind of model in test_model_from_outside.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from engines.memory.state_bytes import Parameters
from engines.torch_engine import TorchEngineConfig
from launch.cli.compose import compose, load
from recipes.cost_plan.estimate import comparable_engines
from recipes.training_run import train

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "CONTRIBUTING.md").read_text()
LOSS, LOSS_TEST, REWARD, *_ = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
LOSS_YAML, EXPERIMENT, *_ = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)


def block_with(text: str) -> str:
    """The one block of code that contains `text`."""
    [block] = [block for block in re.findall(r"```(?:python|yaml)\n(.*?)```", DOCUMENT, re.DOTALL) if text in block]
    return block


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


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The objective family and the engine of the document, in a package of the user's."""
    files = {
        "my_package/flooded.py": block_with("class FloodedTrainer(Trainer)"),
        "my_package/anomaly_engine.py": block_with("class AnomalyEngine(TorchEngine)"),
        "my_conf/trainer/flooded.yaml": block_with("_target_: trainers.flooded."),
        "my_conf/engine/anomaly.yaml": block_with("_target_: engines.anomaly_engine."),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(re.sub(r"(trainers|engines)(\.flooded|\.anomaly_engine)", r"my_package\2", text))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def train_lines(extended: Path, run: list[str], name: str, *overrides: str) -> list[dict[str, Any]]:
    """The lines of the training steps of a run of two updates."""
    own = ["+exp=reranker_contrastive", *run, "trainer.max_steps=2", f"run_name={name}", *overrides]
    train(load(own, config_dir=extended / "my_conf"))
    text = (extended / "outputs" / name / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["split"] == "train"]


def test_an_objective_family_is_two_new_files(extended: Path, tiny_run: list[str]):
    flooded = train_lines(extended, tiny_run, "flooded", "trainer=flooded", "trainer.level=100")
    plain = train_lines(extended, tiny_run, "plain")
    assert flooded[0]["loss_before_flooding"] == plain[0]["loss"]
    assert flooded[0]["loss"] == pytest.approx(200 - plain[0]["loss"])
    assert flooded[0]["grad_norm"] == pytest.approx(plain[0]["grad_norm"], rel=1e-5)
    assert flooded[1]["score_checksum"] != plain[1]["score_checksum"], "the update went the other way"
    with pytest.raises(ValueError, match=r"^trainer.level must be at least 0, got -1.0$"):
        load(["trainer=flooded", "trainer.level=-1"], config_dir=extended / "my_conf")


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_an_engine_is_two_new_files(extended: Path, tiny_run: list[str], capsys: pytest.CaptureFixture[str]):
    def numbers(lines: list[dict[str, Any]]) -> list[tuple[float, ...]]:
        return [(line["loss"], line["grad_norm"], line["score_checksum"]) for line in lines]

    named = train_lines(extended, tiny_run, "named", "engine=anomaly", "trainer.save_every=1")
    assert numbers(named) == numbers(train_lines(extended, tiny_run, "plain", "trainer.save_every=1"))
    summary = extended / "outputs" / "plain" / "summary.json"
    assert json.loads((extended / "outputs" / "named" / "summary.json").read_text())["engine"] == "anomaly"
    summary.unlink()
    train_lines(extended, tiny_run, "plain", "trainer.save_every=1", "engine=anomaly")
    assert "from step 2, engine torch -> AnomalyEngineConfig: the same samples" in capsys.readouterr().err
    assert json.loads(summary.read_text())["engine"] == "anomaly"
    own = load(["engine=anomaly", "engine.precision=fp32"], config_dir=extended / "my_conf").engine
    assert list(comparable_engines(own)) == ["torch", "zero0", "zero1", "zero2", "zero3", "anomaly"]
    sizes = Parameters(total=100, trainable=10, largest=5)
    planned = own.state_bytes(sizes, ranks=2, optimizer="adamw")
    assert planned == TorchEngineConfig().state_bytes(sizes, ranks=2, optimizer="adamw")
