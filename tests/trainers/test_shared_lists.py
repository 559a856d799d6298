"""In training, lists whose prompts share their beginning give the loss and gradient of the prompts one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from running import make_trainer, run_several, run_to_the_end, run_until
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from data.batch import TokenSequences
from data.collate import Collator, PackedCollator
from engines.distributed.testing import run_ranks
from engines.optimizers import OptimizerOptions
from engines.torch_engine import TorchEngineConfig
from inference.shared_prefix import SharedPrefixCollator, list_collator
from models.llm_reranker import LLMReranker, LLMRerankerConfig
from models.lora import LoRAConfig
from trainers.step import GradientCache, StepPlan, gradients_of

SIZES = [5, 1, 8, 3, 3]
TOLERANCE = 1e-5
Result = tuple[float, dict[str, Tensor], StepPlan]
VARIANTS: dict[str, dict[str, Any]] = {
    "all weights": {},
    "LoRA": {"lora": LoRAConfig(r=2)},
    "checkpointing": {"gradient_checkpointing": True},
    "eager": {"attention": "eager", "lora": LoRAConfig(r=2), "gradient_checkpointing": True},
}


@pytest.fixture(scope="module")
def folders(tiny_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("causal")
    names = ("llama", "qwen3")
    return {name: tiny_models.write_tiny_causal(folder / name, architecture=name) for name in names}


def reranker(folder: Path, **options: Any) -> LLMReranker:
    torch.manual_seed(0)
    model = LLMRerankerConfig(str(folder), template="qwen3", max_length=256, **options).build(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    model.prepare(wanted_outputs={"logsumexp"})
    return model


def lists() -> TokenSequences:
    """Lists of `SIZES` behind prefixes of 20 tokens and more, two of them equal sequences; the last list has none."""
    draw = np.random.default_rng(1)
    rows = []
    for number, size in enumerate(SIZES):
        prefix = draw.integers(5, 90, 20 + 5 * number).tolist()
        rows += [prefix + draw.integers(5, 90, draw.integers(1, 40)).tolist() for _ in range(size)]
    rows[6] = rows[7]
    rows[-SIZES[-1] :] = [[5 + first, *row[1:]] for first, row in enumerate(rows[-SIZES[-1] :])]
    return TokenSequences.from_encoding({"input_ids": rows})


def objective(representations: dict[str, Tensor]) -> Tensor:
    """A listwise loss, and the log-likelihood of the first answer."""
    scores = representations["score"].split(SIZES)
    listwise = torch.stack([-each.log_softmax(0)[0] for each in scores]).mean()
    return listwise - (representations["score"] - representations["logsumexp"])[0]


def step(model: LLMReranker, collator: Collator, kept_chunks: int = 2) -> Result:
    """The loss and the gradients of a step, as the trainer makes them."""
    options = OptimizerOptions(name="sgd", learning_rate=0.1, weight_decay=0.0)
    engine = TorchEngineConfig().build(model, options, lambda optimizer: LambdaLR(optimizer, lambda _: 1.0), 1e9)
    model.zero_grad()
    cache = GradientCache(engine, collator, kept_chunks=kept_chunks, seed=3)
    plan = cache.plan(lists(), 1, sizes=SIZES)
    outputs = cache.forward(plan)
    representations = cache.gather(plan, outputs)
    loss = objective(representations)
    cache.backward(plan, outputs, gradients_of(loss, representations))
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}
    return loss.item(), found, plan


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """|found - expected| / |expected| of all gradients as one vector."""
    difference = torch.cat([(found[name] - value).flatten() for name, value in expected.items()])
    return (difference.norm() / torch.cat([value.flatten() for value in expected.values()]).norm()).item()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_loss_and_gradient_are_those_of_separate_prompts(
    architecture: str, variant: str, folders: dict[str, Path]
) -> None:
    model = reranker(folders[architecture], **VARIANTS[variant])
    padding = model.tokenizer.padding
    loss, gradients, plain = step(model, Collator(padding, 300))
    assert all(value.norm() > 0 for name, value in gradients.items() if "lora" in name or "layers" in name)
    for budget in (30, 150, 1000):  # a pack alone is larger than the first, and the last holds several lists
        found = step(model, list_collator(model, padding, budget))
        assert found[0] == pytest.approx(loss, rel=TOLERANCE)
        assert error(found[1], gradients) < TOLERANCE
        if budget > 30:
            assert found[2].computed_tokens < 0.8 * plain.computed_tokens == 0.8 * plain.num_tokens


def test_the_plan_keeps_lists_together_and_to_the_budget(folders: dict[str, Path]) -> None:
    model, rows = reranker(folders["llama"]), lists()
    engine: Any = SimpleNamespace(model=model, device=torch.device("cpu"))
    cache = GradientCache(engine, list_collator(model, model.tokenizer.padding, 150), kept_chunks=0, seed=0)
    plan = cache.plan(rows, 1, sizes=SIZES)
    assert sorted(row for chunk in plan.chunks for row in chunk) == [*range(len(rows))]
    lengths = rows.lengths.tolist()
    assert all(plan.collator.cost(lengths, chunk) <= 150 for chunk in plan.chunks)
    assert sum(plan.collator.cost(lengths, chunk) for chunk in plan.chunks) == plan.padded_tokens
    assert isinstance(plan.collator, SharedPrefixCollator)
    assert any(len(pack.sequences) > 2 for pack in plan.collator.packs)
    alone = plan.collator.collate(rows, [3])  # what an idle rank runs
    assert alone["input_ids"].shape == (1, lengths[3])


def test_a_chunk_that_runs_twice_draws_the_same_masks(folders: dict[str, Path]) -> None:
    model = reranker(folders["llama"], dropout=0.2, lora=LoRAConfig(r=2, dropout=0.2))
    collator = list_collator(model, model.tokenizer.padding, 150)
    recomputed, kept = (step(model, collator, kept_chunks=number) for number in (0, 100))
    assert recomputed[0] == kept[0]
    assert error(recomputed[1], kept[1]) < TOLERANCE
    assert step(model.eval(), collator)[0] != pytest.approx(kept[0], rel=1e-3), "there is no dropout"


def runs(tiny_run: list[str], folder: Path, *options: str) -> list[str]:
    model = [f"model.name_or_path={folder}", "model.max_length=160", "model.template=qwen3", "model.dropout=0.1"]
    lora = ["model=llm_reranker_lora", "model.lora.dropout=0.1", "model.lora.r=2", *model]
    steps = ["trainer.max_steps=3", "trainer.eval_every=3", "trainer.save_every=1", "trainer.token_budget=400"]
    return ["+exp=llm_reranker_sft", *tiny_run, *lora, *steps, "trainer.optimizer=sgd", *options]


def test_two_ranks_are_one_with_dropout(
    tiny_overrides: Callable[[Path], list[str]], folders: dict[str, Path], tmp_path: Path
) -> None:
    found = {}
    for ranks in (1, 2):
        settings = runs(tiny_overrides(tmp_path / str(ranks)), folders["llama"])
        found[ranks] = run_ranks(run_several, ranks, [settings], timeout_s=280)[0][0]
    (one, weights), (two, other_weights) = found[1], found[2]
    lines = [line for line in one if line["split"] == "train"]
    assert min(line["num_chunks"] for line in lines) > 2
    assert min(line["shared_share"] for line in lines) > 0.2
    for expected, line in zip(one, two, strict=True):
        for name in {"loss", "grad_norm", "nDCG@10"} & expected.keys():
            assert line[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name
    torch.testing.assert_close(other_weights, weights, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_ends_alike_and_other_models_pad(tiny_run: list[str], folders: dict[str, Path]) -> None:
    whole, weights = run_to_the_end(runs(tiny_run, folders["qwen3"], "run_name=whole"))
    run_until([(runs(tiny_run, folders["qwen3"], "run_name=killed"), 2)])
    again, resumed = run_to_the_end(runs(tiny_run, folders["qwen3"], "run_name=killed"))
    assert again == whole
    torch.testing.assert_close(resumed, weights, rtol=0, atol=0)
    separate = make_trainer(runs(tiny_run, folders["qwen3"], "run_name=separate", "model.shared_prefix=false"))
    assert type(separate.gradient_cache.collator) is PackedCollator
