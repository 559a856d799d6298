"""The host does not wait for the device in a step, but once, for the norm of the gradient (and what was copied before).

On a CPU `DeviceReads` finds what would wait. On a GPU torch itself does, in its sync debug mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from device_reads import DeviceReads
from running import make_trainer
from torch import Tensor

OF_BATCH = ("labels", "mask", "teacher_scores", "document_hashes", "query_hashes", "never_negatives", "sequences")
LISTS = ["+exp=reranker_contrastive", "trainer.optimizer=adamw"]
LLM = ["+exp=llm_reranker_sft", "model.template=qwen3", "model.max_length=192", "trainer.token_budget=800"]
RUNS = {
    "cross-encoder": LISTS,
    "cross-encoder, GRPO": ["+exp=reranker_grpo", "loss.beta=0"],
    "bi-encoder, in-batch negatives": ["+exp=embedder_infonce"],
    "LLM reranker": LLM,
}


def started(settings: list[str], folder: Path, tiny_overrides: Any) -> Any:
    """A trainer that has made two steps."""
    trainer = make_trainer([*settings, *tiny_overrides, f"output_dir={folder}", "trainer.max_steps=9"])
    trainer.evaluator = None
    trainer.start()
    for _ in range(2):
        trainer.state.step += 1
        trainer.train_step(trainer.next_batch())
    return trainer


def reads_of_a_step(trainer: Any, *, logs: bool) -> DeviceReads:
    """The reads of the next step."""
    trainer.state.step += 1
    trainer.due = lambda what: logs
    batch = trainer.next_batch()
    for name in OF_BATCH:
        getattr(batch, name)  # made on the host, whose device is that of the model here
    found = DeviceReads(trainer.engine.model)
    for state in trainer.engine.optimizer.state.values():
        found.mark(value for value in state.values() if isinstance(value, Tensor))
    with found:
        trainer.train_step(batch)
    return found


@pytest.fixture(scope="module", params=RUNS)
def trainer(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_overrides: Callable[[Path], list[str]],
    tiny_causal_dir: Path,
) -> Any:
    folder = tmp_path_factory.mktemp("reads")
    overrides = [each for each in tiny_overrides(folder) if not each.startswith("eval.depth")]
    if request.param == "LLM reranker":
        overrides = [each for each in overrides if not each.startswith(("model.", "trainer.token_budget"))]
        overrides.append(f"model.name_or_path={tiny_causal_dir}")
    return started(RUNS[request.param], folder, overrides)


@pytest.mark.parametrize("logs", [False, True])
def test_a_step_waits_once(trainer: Any, logs: bool) -> None:
    """Both copies to the host are queued before the update. `read` waits for them, not for what comes after."""
    found = reads_of_a_step(trainer, logs=logs)
    assert found.reads == []
    assert found.copies == 2


def test_a_read_is_found(trainer: Any) -> None:
    objective = trainer.objective

    def reading(lists: Any, batch: Any) -> Any:
        loss, statistics = objective(lists, batch)
        assert loss > -1e9
        return loss * lists.labels[lists.mask].shape[0], statistics

    trainer.objective = reading
    found = reads_of_a_step(trainer, logs=False).reads
    trainer.objective = objective
    assert [read.split()[1] for read in found] == ["aten::_local_scalar_dense", "aten::index.Tensor"]
    assert all(read.startswith("test_device_reads.py:") for read in found)


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_step_waits_once_on_a_gpu(trainer: Any) -> None:
    trainer.state.step += 1
    batch = trainer.next_batch()
    with waiting_is_an_error():
        trainer.train_step(batch)
