"""Every file of conf/exp trains two steps on a tiny model, from its own command to its export."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from launch.compose import CONF, EXPERIMENTS, compose
from launch.training import train

EXPERIMENT_NAMES = sorted(path.stem for path in (CONF / EXPERIMENTS).glob("*.yaml"))


@pytest.fixture(scope="session")
def tiny_decoder_dir(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> Path:
    return tiny_models.write_tiny_decoder(tmp_path_factory.mktemp("tiny_decoder"))


def options(name: str, tiny_run: list[str], reranker: Path, decoder: Path) -> list[str]:
    """The experiment on tiny models; what its command asks for (a trained model) is there."""
    command = (CONF / EXPERIMENTS / f"{name}.yaml").read_text().splitlines()[1]
    chosen = [f"+exp={name}", *tiny_run, "trainer.max_steps=2", "trainer.eval_every=2"]
    if name.startswith("embedder"):
        chosen.append("eval.depth=100")
    if "teacher.name_or_path" in command:
        chosen += [f"teacher.name_or_path={reranker}", "teacher.max_length=48"]
    if " model.name_or_path" in command:
        chosen.append(f"model.name_or_path={reranker}")
    if "qwen3" in name:
        chosen.append(f"model.name_or_path={decoder}")
    if name == "embedder_matryoshka":
        chosen += ["loss.dims=[32,16]", "eval.dims=[16]"]
    return chosen


@pytest.mark.parametrize("name", EXPERIMENT_NAMES)
def test_an_experiment_trains(name: str, tiny_run: list[str], tiny_reranker_dir: Path, tiny_decoder_dir: Path) -> None:
    chosen = options(name, tiny_run, tiny_reranker_dir, tiny_decoder_dir)
    train(compose(chosen))
    folder = Path(next(o for o in tiny_run if o.startswith("output_dir=")).removeprefix("output_dir=")) / name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["split"] == "train"]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(line["grad_norm"] > 0 for line in steps)
    assert (folder / "summary.json").is_file()
    assert any((folder / "model").rglob("*.safetensors"))
