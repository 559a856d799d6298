"""A reasoning reranker by TRL: a run on a tiny causal model, what is rewarded, and what is refused."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engines.distributed.preemption import Preempted
from evaluation.reranking_evaluator import RerankingEvaluator
from launch.cli.compose import load
from models.llm_reranker import LLMReranker
from models.prompts.reasoning_template import ReasoningTemplate
from models.reasoner import Reasoner
from recipes.reasoning_run import ReasonConfig, reason, restore_language_model_head
from trainers import reasoning_grpo
from trainers.reasoning_grpo import correctness_reward, format_reward

TEMPLATE = ReasoningTemplate(
    pieces=["query: {query}\ndocument: {document}\n<think>\n{reasoning}\n</think>\n\n"],
    true_answer="yes",
    false_answer="no",
)


@pytest.fixture
def options(tiny_run: list[str], tiny_causal_dir: Path) -> list[str]:
    kept = [each for each in tiny_run if each.startswith(("data", "output_dir", "logger", "eval"))]
    trainer = ["max_steps=2", "batch_size=2", "list_size=3", "num_generations=4", "per_device_batch_size=4"]
    trainer += ["max_completion_length=6", "learning_rate=0.01", "save_every=1"]
    model = [f"model.name_or_path={tiny_causal_dir}", "model.max_length=256"]
    return [*kept, *model, *(f"trainer.{each}" for each in trainer), "eval.max_queries=3", "eval.depth=8"]


def first_token_is_even(*_: Any) -> Any:
    """A reward that a random model earns now and then, so that there is something to learn."""

    def correctness(completion_ids: list[list[int]], relevant: list[bool], **_: Any) -> list[float]:
        assert len(relevant) == len(completion_ids)
        return [float(ids[0] % 2 == 0) for ids in completion_ids]

    return correctness


def test_a_run_leaves_what_every_run_does(
    options: list[str], tmp_path: Path, tiny_causal_dir: Path, monkeypatch
) -> None:
    monkeypatch.setattr(reasoning_grpo, "correctness_reward", first_token_is_even)
    settings = load([*options, "data.query_prompt='Find it.'", "data.document_prompt='title: '"], "reason")
    after = reason(settings)
    run = tmp_path / "outputs" / "reason"
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "model",
        "queries.json",
        "report.html",
        "runs",
    }
    parameters = json.loads((run / "environment.json").read_text())["parameters"]
    assert parameters["trained"] == parameters["total"] == parameters["parts"]["backbone"]["trained"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["after"] == after
    assert (summary["steps"], summary["engine"]) == (2, "trl")
    none = ("fused", "best_dev", "best_step", "rows_per_s", "tokens_per_s")
    assert [summary[name] for name in none] == [None] * len(none), "what every summary has"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["split"], line["step"]) for line in lines] == [("test", 0), ("train", 1), ("train", 2), ("test", 2)]
    trained = [line for line in lines if line["split"] == "train"]
    assert all(0 <= line["reward_mean/correctness"] <= 1 for line in trained)
    assert any(line["grad_norm"] > 0 for line in trained)
    before, learned = (load_file(folder / "model.safetensors") for folder in (tiny_causal_dir, run / "model"))
    assert any(not torch.equal(before[name], learned[name]) for name in before)
    assert AutoModelForCausalLM.from_pretrained(run / "model").config.model_type == "qwen2"
    template = ReasoningTemplate(**json.loads((run / "model" / "reasoning_template.json").read_text()))
    assert template == replace(settings.template, instruction="Find it.", document_prompt="title: ")
    assert LLMReranker.load(run / "model").tokenizer.prompt_template == template.direct
    assert reason(settings) == after, "a finished run is shown"


def test_an_interrupted_run_resumes_from_trls_checkpoint(
    options: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(reasoning_grpo, "correctness_reward", first_token_is_even)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-7")
    options = [*options, "+trainer.trl.hub_token=what-nobody-may-read"]  # config.yaml holds *** instead
    whole = [*options, "run_name=whole"]
    reason(load(whole, "reason"))

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("recipes.reasoning_run.store_run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            reason(load([*options, "run_name=cut"], "reason"))
    cut = tmp_path / "outputs" / "cut"
    state = cut / "trl" / "checkpoint-2" / "trainer_state.json"
    assert state.is_file()
    state.write_text(state.read_text()[:40])  # killed while it was written
    with pytest.raises(ValueError, match=r"cut was started with other settings: trainer.beta 0.0 -> 0.1"):
        reason(load([*options, "run_name=cut", "trainer.beta=0.1"], "reason"))
    capsys.readouterr()
    measured, evaluate = [], RerankingEvaluator.evaluate
    monkeypatch.setattr(
        RerankingEvaluator, "evaluate", lambda self, *inputs: measured.append(self) or evaluate(self, *inputs)
    )
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # this launch resumes what it has started
    reason(load([*options, "run_name=cut", "resume=none"], "reason"))
    assert len(measured) == 1, "the start is not measured again"
    assert "resumes from TRL's checkpoint-1" in capsys.readouterr().out
    runs = [tmp_path / "outputs" / name / "metrics.jsonl" for name in ("whole", "cut")]
    expected, found = ([json.loads(line) for line in file.read_text().splitlines()] for file in runs)
    assert [(line["split"], line["step"]) for line in found] == [(line["split"], line["step"]) for line in expected]
    for one, two in zip(expected, found, strict=True):
        assert two.get("reward_mean") == one.get("reward_mean")


def test_a_preempted_run_saves_its_step_and_resumes(options: list[str], tmp_path: Path, monkeypatch) -> None:
    def preempted(*given: Any) -> Any:
        reward = first_token_is_even(*given)

        def correctness(completion_ids: list[list[int]], relevant: list[bool], **_: Any) -> list[float]:
            signal.raise_signal(signal.SIGTERM)
            return reward(completion_ids, relevant)

        return correctness

    options = [*options, "trainer.save_every=50"]
    with monkeypatch.context() as patch:
        patch.setattr(reasoning_grpo, "correctness_reward", preempted)
        with pytest.raises(Preempted, match="preempted by SIGTERM at step 1"):
            reason(load(options, "reason"))
    run = tmp_path / "outputs" / "reason"
    assert [folder.name for folder in (run / "trl").glob("checkpoint-*")] == ["checkpoint-1"]
    monkeypatch.setattr(reasoning_grpo, "correctness_reward", first_token_is_even)
    reason(load(options, "reason"))
    assert json.loads((run / "summary.json").read_text())["steps"] == 2


def test_rewards_are_of_answers_in_format(tiny_causal_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_causal_dir)
    texts = ["is it?\n</think>\n\nyes", "\n</think>\n\nno", "\n</think>\n\nyes no", "yes", "a</think>b</think>yes"]
    ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
    relevant = [True, True, True, True, False]
    given = {"prompts": [""] * 5, "completions": texts, "completion_ids": ids, "trainer_state": None}
    assert format_reward(TEMPLATE, tokenizer)(relevant=relevant, **given) == [1, 1, 0, 0, 1]
    assert correctness_reward(TEMPLATE, tokenizer)(relevant=relevant, **given) == [1, 0, 0, 0, 0]


def test_scores_are_of_the_answer_after_the_reasoning(tiny_causal_dir: Path) -> None:
    """By plain transformers, prompt by prompt; padding changes nothing."""
    settings: ReasonConfig = load([f"model.name_or_path={tiny_causal_dir}"], "reason")
    model = replace(settings.model, template=TEMPLATE.prompt).build(0).eval()
    restore_language_model_head(model)
    tokenizer, answers = model.tokenizer.tokenizer, model.tokenizer.answer_ids()
    reasoner = Reasoner(model.backbone, tokenizer, TEMPLATE, answers, 5)
    rows = model.tokenizer(["apple", "what is the rank of a list"], ["red apple", "green"])["input_ids"]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    scores = reasoner(ids, mask)["score"]
    plain = AutoModelForCausalLM.from_pretrained(tiny_causal_dir)
    closing = tokenizer(TEMPLATE.closing, add_special_tokens=False)["input_ids"]
    for row, score in zip(rows, scores, strict=True):
        thought = plain.generate(torch.tensor([row]), max_new_tokens=5, do_sample=False)[0, len(row) :].tolist()
        if tokenizer.eos_token_id in thought:
            thought = thought[: thought.index(tokenizer.eos_token_id)]
        logits = plain(torch.tensor([row + thought + closing])).logits[0, -1]
        torch.testing.assert_close(score, logits[answers[0]] - logits[answers[1]], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("template.pieces=['{query} {document}']", r"the last piece must hold \{reasoning\} once"),
        (
            "template.pieces=['{query} {document} {reasoning}']",
            r"after \{reasoning\} only the text that closes it may follow",
        ),
        ("model.template=qwen3", "model.template is for rerankers that answer without reasoning"),
        ("trainer.num_generations=1", "trainer.num_generations must be at least 2"),
        ("resume=x", "choose auto or none"),
    ],
)
def test_refusals(option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load([option], "reason")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("trainer.batch_size=3", "do not divide into per_device_batch_size=8"),
        ("trainer.trl={nonsense: 1}", "trainer: TRL rejects the options: .*nonsense"),
    ],
)
def test_sizes_and_options_that_trl_refuses(option: str, message: str, tmp_path: Path) -> None:
    settings = load([option, "trainer.num_generations=3", "trainer.per_device_batch_size=8"], "reason")
    with pytest.raises(ValueError, match=message):
        settings.trainer.arguments(tmp_path, seed=0, ranks=1, use_cpu=True, bf16=False)


def test_the_loop_of_train_is_not_its_own() -> None:
    with pytest.raises(ValueError, match=r"start it with launch/reason.py"):
        load(["trainer=reasoning_grpo"]).trainer.check(None)


def test_a_data_set_and_one_that_is_held_out_are_refused_as_a_mixture(options: list[str], tiny_beir_dir: Path) -> None:
    own = [each for each in options if not each.startswith("data")]
    data = ["data=mixture", "+data@data.sources.a=beir", "+data@data.held_out=beir"]
    paths = [f"data.{node}.path={tiny_beir_dir}" for node in ("sources.a", "held_out")]
    with pytest.raises(ValueError, match=r"trains on one data set: data=mixture is for launch/train\.py"):
        reason(load([*own, *data, *paths], "reason"))
