"""Build the parts of a training run from its settings: evaluators, teacher and guide, data loader, trainer."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from data.sampling.mixture import make_loader
from data.store.texts import texts_of
from data.store.token_cache import open_token_cache
from engines.distributed import process_group
from evaluation.evaluator import DevEvaluator, EvaluationResult, Evaluator, Prompts
from losses.contracts import gives_probabilities, has_in_batch_negatives, is_shift_invariant, required_outputs
from losses.quantization_aware import int8_dimensions
from models.capabilities import ModelOptions, RankingModel
from recipes.checks.compatibility import check_score_scale, check_teacher_embeddings
from recipes.chosen_losses import losses_of
from recipes.dev_suite import Data, Sets, suite_evaluator
from recipes.run_config import RunConfig
from recipes.trained_parts import announce_trained_parts
from runs.directory import RunDirectory
from runs.loggers.logger import Logger
from trainers.parts import TrainerParts
from trainers.source_losses import SourceLosses
from trainers.trainer import Trainer


def make_trainer(
    settings: RunConfig, collection: Data, run: RunDirectory, model: RankingModel, sets: Sets, logger: Logger
) -> Trainer:
    """Build the trainer of a run without stages. `sets`: those of its dev suite."""
    evaluator = dev_evaluator(settings, collection, model, sets)
    return build_trainer(settings, collection, run, model, evaluator=evaluator, logger=logger)


def dev_evaluator(settings: RunConfig, collection: Data, model: RankingModel, sets: Sets) -> DevEvaluator | None:
    """Build the evaluator that is used during training: of the `sets` of the dev suite, or if there are none, of dev;
    None if there is no dev split either."""
    if sets:
        return suite_evaluator(settings, sets, model)
    dev, prompts = collection.splits.get("dev"), Prompts.of(collection)
    return settings.eval.build(dev, collection.documents, model.tokenizer, dev=True, prompts=prompts) if dev else None


def test_evaluator(settings: RunConfig, collection: Data, model: RankingModel) -> Evaluator:
    """Build the evaluator of the test split, which is used before and after training."""
    prompts = Prompts.of(collection)
    return settings.eval.build(collection.split("test"), collection.documents, model.tokenizer, prompts=prompts)


def read_corpus(model: RankingModel, *data: Data) -> None:
    """Show a model that starts from the texts it will search the documents of all data sets."""
    if model.reads_corpus:
        alone = [each.evaluated for each in data if each.held_out_alone]
        sources = {id(source): source for each in data for source in (*each.sources.values(), *alone)}.values()
        model.read_corpus([text for source in sources for text in texts_of(source.documents)])


def prepare(model: RankingModel, *losses: Any) -> None:
    """Prepare `model` for its losses: it returns the outputs that they read, freezes a score bias that has no gradient,
    keeps the int8 ranges in which they quantise, and exports probabilities if all of them make such."""
    wanted = frozenset().union(*map(required_outputs, losses))
    model.prepare(wanted_outputs=wanted, shift_invariant=all(map(is_shift_invariant, losses)))
    dims = [dim for loss in losses for dim in int8_dimensions(loss, model.dimension or 0)]
    if dims and model.dimension is None:
        raise ValueError(
            f"loss {type(losses[0]).__name__} quantises to int8 in ranges that the model keeps: give "
            f"{type(model).__name__} its attribute `dimension`, or leave int8 out of loss.precisions"
        )
    model.track_int8_ranges(list(dict.fromkeys(dims)))
    if all(map(gives_probabilities, losses)):
        model.give_probabilities()


def in_batch_negatives(losses: SourceLosses) -> dict[str, Any]:
    """The options of `make_loader` that say which lists are compared with the documents of others."""
    return {
        "in_batch_negatives": losses.shared is not None and has_in_batch_negatives(losses.shared),
        "in_batch_of_source": {name: has_in_batch_negatives(loss) for name, loss in losses.by_source.items()},
    }


module_logger = logging.getLogger(__name__)

SCORES_IN_DATA = "teacher=null takes the scores in the data instead, if all rows have them"


def build_auxiliary(role: str, options: ModelOptions, seed: int, data: Data) -> RankingModel:
    """Build the teacher or the guide, which reads the texts of `data`. Raises ValueError, naming the role, if it cannot
    be loaded or has no score head."""
    check_auxiliary_folder(role, options)
    model: RankingModel = options.build(seed)
    read_corpus(model, data)
    return model


def check_auxiliary_folder(role: str, options: ModelOptions) -> None:
    """Raise FileNotFoundError or ValueError, naming the role, if the folder of the teacher or the guide does not fit
    its options, or holds no score head."""
    try:
        options.check(needs_head=True)
    except (FileNotFoundError, ValueError) as error:
        instead = f"; {SCORES_IN_DATA}" if role == "teacher" else ""
        raise type(error)(f"{role}: {error}{instead}") from error


def with_token_cache(model: RankingModel, settings: RunConfig) -> Any:
    """The tokenizer of a model with a cache of the tokens of training texts. `trainer.cache_tokens=false` leaves it as
    it is, and so does a tokenizer of another kind, which takes no memory."""
    tokenizer: Any = model.tokenizer
    folder: Path | None = getattr(settings.data, "cache", None)
    if not settings.trainer.cache_tokens or folder is None or not hasattr(tokenizer, "with_memory"):
        return tokenizer
    name = Path(getattr(model, "source", "")).name or "model"
    limits = {"limit": tokenizer.max_length, "vocabulary_size": tokenizer.vocabulary_size}
    memory = open_token_cache(folder, name, tokenizer.token_key, **limits)
    return tokenizer if memory is None else tokenizer.with_memory(memory)


def check_steps_left(run: RunDirectory, num_steps: int) -> None:
    """Raise ValueError if a new run starts from a checkpoint after which `trainer.max_epochs` leaves nothing to train.
    (`trainer.max_steps` is checked when the run is opened.)"""
    if run.starts_from is not None and run.checkpoint is not None and (step := run.checkpoint[1].step) >= num_steps:
        raise ValueError(
            f"resume={run.starts_from}: the checkpoint is at step {step}, and trainer.max_epochs gives "
            f"{num_steps} steps, those before it included, so nothing would be trained: raise trainer.max_epochs"
        )


def build_trainer(
    settings: RunConfig,
    data: Data,
    run: RunDirectory,
    model: RankingModel,
    *,
    evaluator: DevEvaluator | None,
    logger: Logger,
    start_result: EvaluationResult | None = None,
) -> Trainer:
    """Build the trainer of `model` on the training lists of `data`. `start_result`: its result on dev, if it is
    known."""
    run.describe_data(data.name, data.fingerprint, data.skipped, data.made)
    losses = losses_of(settings)
    prepare(model, *losses.used)
    announce_trained_parts(settings.model, model, run)
    if getattr(settings.engine, "compile", False):
        model.pad_rows()  # a packed row has another layout in every chunk: it would be compiled again and again
    if model.why_no_packs:
        module_logger.warning(
            "the prompts of a list run one by one: %s (model.shared_prefix=false silences this line)",
            model.why_no_packs,
        )
    auxiliary_models = {
        role: build_auxiliary(role, options, settings.seed, data)
        for role, options in (("teacher", settings.teacher), ("guide", settings.guide))
        if options is not None
    }
    check_teacher_embeddings(model, auxiliary_models.get("teacher"), losses.used)
    check_score_scale(model, losses.used)
    options = settings.trainer
    loader = make_loader(
        data,
        with_token_cache(model, settings),
        list_size=options.list_size,
        batch_size=options.batch_size,
        seed=settings.seed,
        rank=process_group.rank(),
        world_size=process_group.world_size(),
        workers=options.workers,
        **in_batch_negatives(losses),
        auxiliary={role: with_token_cache(auxiliary, settings) for role, auxiliary in auxiliary_models.items()},
    )
    check_steps_left(run, options.num_steps(loader.plan.batches_per_epoch))
    parts = TrainerParts(
        model=model,
        engine=settings.engine,
        loader=loader,
        losses=losses,
        evaluator=evaluator,
        run=run,
        logger=logger,
        seed=settings.seed,
        auxiliary_models=auxiliary_models,
        start_result=start_result,
    )
    return options.build(parts)
