"""A run that trains a reasoning reranker with TRL. Everything but the training is shared with the other runs."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME

from data.collection import Collection
from engines.distributed import preemption, process_group
from engines.distributed.heartbeat import OnLostRank
from engines.precision import uses_bf16
from evaluation.evaluator import DevEvaluator, EvaluationResult, Prompts
from evaluation.reranking_evaluator import RerankingConfig
from inference.golden import make_golden, write_golden
from inference.runner import ModuleRunner
from models.answer_head import LogitTransform, answer_with
from models.llm_reranker import LLMReranker, LLMRerankerConfig
from models.prompts.reasoning_template import ReasoningTemplate
from models.prompts.run_prompts import RunPrompts
from models.reasoner import Reasoner
from recipes.baseline import score_baseline
from recipes.checks.compatibility import check_is_data
from recipes.evaluate.choice import ranking_refused
from recipes.finish import print_results, show_finished, write_results
from recipes.model_card import model_card
from recipes.prompts import check_prompts, expect_prompts, lost_in_words, run_prompts
from recipes.results import TrainingOutcome, record, store_run, summarise
from recipes.run_config import RunSettings
from recipes.start import join_ranks, open_run, tracked
from recipes.trained_parts import announce_trained_parts
from runs.directory import RunDirectory
from runs.loggers.logger import Logger
from runs.places import contents_of
from runs.redaction import redact_tree
from runs.resume import after_restart, changes_of_run, on_main, refusal
from runs.settings_tree import as_tree
from trainers.reasoning_grpo import ReasoningGRPOConfig, make_trl_trainer, training_prompts

TRL_FOLDER = "trl"  # TRL's checkpoints, in the run directory


@dataclass(frozen=True, kw_only=True)
class ReasonConfig(RunSettings):
    """The root of conf/reason.yaml."""

    model: LLMRerankerConfig
    template: ReasoningTemplate
    trainer: ReasoningGRPOConfig
    eval: RerankingConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        check_is_data(self.data)
        if own := [name for name, loss in self.data.own_losses.items() if loss is not None]:
            raise ValueError(f"data.sources.{own[0]}.loss is for launch/train.py: TRL has the loss of this run")
        if self.resume not in ("auto", "none"):
            raise ValueError(f"resume={self.resume}: TRL's checkpoints are in the run directory: choose auto or none")
        if self.model.template is not None:
            raise ValueError(
                "model.template is for rerankers that answer without reasoning: leave it null and set template.pieces"
            )
        if self.model.quantization is not None:
            raise ValueError("model.quantization is not supported with reasoning: leave it null")

    @property
    def prompted_model(self) -> LLMRerankerConfig:
        """The options of the model with the prompt up to the reasoning as its template."""
        return replace(self.model, template=self.template.prompt)


@preemption.handle_signals()
def reason(
    settings: ReasonConfig,
    *,
    on_lost_rank: OnLostRank | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> float:
    """Train, evaluate and export. Returns the test metric after training. The callbacks are those of `train`."""
    check_trl()
    settings.prompted_model.check()
    data = settings.data.build()
    if len(data.sources) > 1 or data.held_out_alone:
        raise ValueError("launch/reason.py trains on one data set: data=mixture is for launch/train.py")
    collection = data.evaluated
    for split in collection.splits.values():
        if split.degrees:  # the reward asks whether the label is above 0
            raise ValueError(ranking_refused(collection, split.degrees, ""))
    prompts = run_prompts(collection, collection)
    check_prompts(settings.prompted_model, collection, prompts, may_be_lost=settings.allow_lost_prompts)
    join_ranks(settings.timeout_s, on_lost_rank)
    folder = Path(settings.output_dir) / str(settings.run_name)
    checkpoint = newest_checkpoint(folder, settings)
    arguments = trl_arguments(settings, folder)
    run = open_run(settings, collection, on_start)
    if run.finished:
        summary = show_finished(run)
    else:
        with tracked(settings, run) as logger:
            summary = train_reasoner(settings, collection, run, logger, arguments, checkpoint)
            print_results(run, summary)
        logger.finish(summary)
    process_group.stop()
    return summary["after"]


def check_trl() -> None:
    """Raise ValueError if TRL is not installed."""
    if importlib.util.find_spec("trl") is None:
        raise ValueError("launch/reason.py needs TRL: pip install -c constraints.txt -e '.[reasoning]'")


def trl_arguments(settings: ReasonConfig, folder: Path) -> Any:
    """TRL's options for this machine. Raises ValueError if the batch sizes do not fit it."""
    device = process_group.device()
    return settings.trainer.arguments(
        folder / TRL_FOLDER,
        seed=settings.seed,
        ranks=process_group.world_size(),
        use_cpu=device.type == "cpu",
        bf16=uses_bf16("auto", device),
    )


def newest_checkpoint(folder: Path, settings: ReasonConfig) -> Path | None:
    """TRL's newest checkpoint of an unfinished run. Raises ValueError if the run was started with other settings. Call
    it on all ranks."""
    tree = after_restart(as_tree(settings))

    def find() -> Path | None:
        checkpoints = sorted(filter(_is_complete, (folder / TRL_FOLDER).glob("checkpoint-*")), key=_step)
        if tree["resume"] != "auto" or not checkpoints or (folder / "summary.json").is_file():
            return None
        changed, _ = changes_of_run(folder, redact_tree(tree), contents_of(settings))
        if changed:
            raise ValueError(refusal(folder, changed, None))
        return checkpoints[-1]

    return on_main(find)


def _is_complete(checkpoint: Path) -> bool:
    """Whether the file that transformers writes last exists and is complete."""
    try:
        return json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["global_step"] == _step(checkpoint)
    except (OSError, ValueError, KeyError):
        return False


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def train_reasoner(
    settings: ReasonConfig,
    collection: Collection,
    run: RunDirectory,
    logger: Logger,
    arguments: Any,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Evaluate, train, evaluate, export and report, like `recipes.train_model.train_model`.

    `arguments` are TRL's options; training resumes from `checkpoint`. Returns the summary.
    """
    model, reasoner = build_reasoner(settings)
    expect_prompts(model, collection)
    announce_trained_parts(settings.model, model, run)
    device, tokenizer = process_group.device(), model.tokenizer

    def evaluate(evaluator: DevEvaluator) -> EvaluationResult:
        return evaluator.evaluate(ModuleRunner(reasoner, device))

    test = settings.eval.build(
        collection.split("test"), collection.documents, tokenizer, prompts=Prompts.of(collection)
    )
    baseline = score_baseline(test, evaluate, run, logger)
    seconds = fit(settings, collection, run, logger, model, arguments, checkpoint)
    after = evaluate(test)
    steps = settings.trainer.max_steps
    record(run, logger, steps, "after", after.metrics)
    store_run(run, "after", after.run)
    results = {"before": baseline, "after": after.metrics}
    if test.has_first_stage:
        results = {"first_stage": test.first_stage, **results}
    # The last model is exported: generation is too slow for evaluations on dev during training.
    outcome = TrainingOutcome(engine="trl", steps=steps, seconds=seconds)
    stages = [{"name": run.name, "metric": after.metrics.mean[test.config.metric]}]
    summary = summarise(collection, test, results, outcome, stages)
    export_reasoner(model, settings, run, summary, run_prompts(collection, collection))
    write_results(run, test, results, after, summary)
    return summary


def build_reasoner(settings: ReasonConfig) -> tuple[LLMReranker, Reasoner]:
    """Build the model on this rank's device, and the module that scores with its reasoning."""
    model = settings.prompted_model.build(settings.seed)
    restore_language_model_head(model)
    model.to(process_group.device())
    tokenizer = model.tokenizer
    return model, Reasoner(
        model.backbone,
        tokenizer.tokenizer,
        settings.template,
        tokenizer.answer_ids(),
        settings.trainer.max_completion_length,
    )


def fit(
    settings: ReasonConfig,
    collection: Collection,
    run: RunDirectory,
    logger: Logger,
    model: LLMReranker,
    arguments: Any,
    checkpoint: Path | None,
) -> float:
    """Train with TRL. Returns the seconds. Raises `Preempted` if a signal has stopped training."""

    def log(metrics: Mapping[str, float], step: int) -> None:
        line = rename_trl_metrics(metrics)
        run.append_metrics({"step": step, "split": "train", **line})
        logger.log({f"train/{name}": value for name, value in line.items()}, step)

    if checkpoint is not None and process_group.is_main():
        print(f"{run.path} resumes from TRL's {checkpoint.name}", flush=True)
    options, started = settings.trainer, time.perf_counter()
    prompts = training_prompts(
        collection,
        model.tokenizer,
        list_size=options.list_size,
        options=settings.data.lists,
        seed=settings.seed,
        limit=options.max_steps * options.batch_size,
    )
    trainer = make_trl_trainer(
        model.backbone,
        arguments,
        prompts,
        template=settings.template,
        tokenizer=model.tokenizer.tokenizer,
        prompt_tokenizer=model.tokenizer.reader.tokenizer,
        log=log,
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if preemption.agreed():
        raise preemption.Preempted(f"at step {trainer.state.global_step}")
    return time.perf_counter() - started


def restore_language_model_head(model: LLMReranker) -> None:
    """Undo `models.answer_head.answer_with`: TRL and `generate` need the logits of the whole vocabulary."""
    head: Any = model.language_model.get_output_embeddings()
    del head.forward


def rename_trl_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """TRL's metrics under the names that all other runs use."""
    names = {
        "loss": "loss",
        "grad_norm": "grad_norm",
        "learning_rate": "learning_rate",
        "reward": "reward_mean",
        "reward_std": "reward_std",
        "frac_reward_zero_std": "frac_reward_zero_std",
        "rewards/correctness/mean": "reward_mean/correctness",
        "rewards/in_format/mean": "reward_mean/format",
        "entropy": "entropy",
        "kl": "kl",
        "clip_ratio/region_mean": "clip_fraction",
        "completions/mean_length": "completion_length",
        "completions/clipped_ratio": "truncated_completions",
    }
    return {ours: metrics[theirs] for theirs, ours in names.items() if metrics.get(theirs) is not None}


def export_reasoner(
    model: LLMReranker, settings: ReasonConfig, run: RunDirectory, summary: Mapping[str, Any], prompts: RunPrompts
) -> None:
    """Write the language model to model/, with the template that answers at once and the one with reasoning."""
    template, options = settings.template, settings.trainer
    model.tokenizer = replace(model.tokenizer, template=template.direct)
    model.adopt_prompts(prompts)
    template = template.with_prompts(prompts.query, prompts.document)
    head: Any = model.language_model.get_output_embeddings()
    answer_with(head, *model.tokenizer.answer_ids(), LogitTransform.of(model.language_model.config))  # as it is loaded
    golden = make_golden(model, next(model.parameters()).device)
    if process_group.is_main():
        card_settings = {
            "loss": f"GRPO by TRL ({options.loss_type}), trained to reason before it answers "
            "(`reasoning_template.json`)",
            "batch": f"{options.batch_size} pairs with {options.num_generations} completions each",
            "optimizer": f"learning rate {options.learning_rate:g}",
            **lost_in_words(settings.prompted_model, prompts),
        }
        card = model_card(run.name, summary, start=str(model.source), seed=settings.seed, settings=card_settings)
        model.cpu().export(run.path / "model", card=card)
        write_golden(run.path / "model", golden)
        (run.path / "model" / "reasoning_template.json").write_text(json.dumps(asdict(template), indent=2) + "\n")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
