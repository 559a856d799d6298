"""Check that the chosen parts fit each other, from what each of them declares, before a weight is loaded."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from data.collection import JUDGED_LISTS
from data.option_names import rename_options
from losses.contracts import (
    OUTPUTS,
    MissingRequirements,
    all_losses,
    has_in_batch_negatives,
    input_names,
    is_policy,
    largest_dimension,
    missing_requirements,
    normalizes_embeddings,
    required_outputs,
    takes_logits,
)
from models.capabilities import ModelOptions, RankingModel
from models.export.hub import check_repo_id
from recipes.run_config import RunConfig

logger = logging.getLogger(__name__)

AUXILIARY_INPUTS = {
    "teacher": "teacher_scores",
    "guide": "guide_queries",
}  # role of an auxiliary model -> the input of a loss that it fills
ADD_NEGATIVES = (  # settings that give negatives to lists of relevant documents
    "data/candidates=bm25 (BM25 adds similar documents of the data as negatives) or data.lists.random_fraction=0.5 "
    "(random ones)"
)
MODELS_BY_OUTPUT = {  # output -> the models to choose for it
    "score": "model=cross_encoder or llm_reranker",
    "embedding": "model=bi_encoder",
    "layers": "model=bi_encoder",
    "logsumexp": "model=llm_reranker, or a policy over the score alone (loss=token_policy: loss.vocabulary=false, "
    "loss.format_weight=0)",
}


def check_parts(settings: RunConfig) -> None:
    """Raise ValueError, in one line, if model, loss, trainer, evaluation, teacher and guide do not fit."""
    check_is_model("model", settings.model)
    check_is_data(settings.data)
    if not settings.model.trainable:
        raise ValueError("this model is for launch/evaluate.py: train model=cross_encoder, llm_reranker or bi_encoder")
    settings.trainer.check(settings.loss)
    name = type(settings.loss).__name__
    check_outputs(f"loss {name}", required_outputs(settings.loss), settings.model)
    if has_in_batch_negatives(settings.loss) and settings.trainer.batch_size * settings.trainer.list_size < 2:
        raise ValueError(f"loss {name} compares documents, and a step has one: raise trainer.batch_size or list_size")
    if "embedding" in settings.model.outputs:
        warn_about_unscaled_scores(settings)
    check_outputs("this evaluation", settings.eval.required_outputs, settings.model, "eval=reranking")
    check_scale(settings, name)
    check_line_breaks(settings)
    settings.model.check_machine()
    if settings.push_to_hub:
        check_repo_id(settings.push_to_hub)
    if settings.adapter_only:
        settings.model.check_adapter_only()
    for role, filled in AUXILIARY_INPUTS.items():
        check_auxiliary(role, getattr(settings, role), filled in input_names(settings.loss), name)


def check_is_model(role: str, options: Any) -> None:
    """Raise ValueError if `options` are not those of a model: a model's options declare its outputs."""
    if not hasattr(options, "outputs"):
        raise ValueError(
            f"{role} is not a model: choose one of conf/model, {'model' if role == 'model' else f'model@{role}'}=NAME, "
            "or declare `outputs` in its class (models/capabilities.py)"
        )


def check_is_data(options: Any) -> None:
    """Raise ValueError if `options` are not those of a data set."""
    if not hasattr(options, "map_sources"):
        raise ValueError(
            "data is not a data set: choose one of conf/data, data=NAME, or derive its class from SourceOptions "
            "(data/source.py)"
        )


def check_outputs(what: str, required: Collection[str], options: ModelOptions, choose: str | None = None) -> None:
    """Raise ValueError if the model does not give all outputs that `what` requires. The message names what to `choose`
    instead (None: a model that gives them)."""
    for output in OUTPUTS:
        if output in required and output not in options.outputs:
            raise ValueError(
                f"{what} needs {OUTPUTS[output]}, and the model gives {' and '.join(sorted(options.outputs))}: choose "
                f"{choose or MODELS_BY_OUTPUT[output]}"
            )


def check_line_breaks(settings: RunConfig) -> None:
    """Raise ValueError if a prompt holds the two characters backslash and n, as a shell passes them, for a line
    break."""
    for part in ("model", "data"):
        for option, prompt in getattr(settings, part).prompt_options().items():
            if "\\n" in prompt:
                raise ValueError(
                    f"{part}.{option} holds a backslash and an n instead of a line break: quote it as $'...' in the "
                    "shell, or write it in YAML"
                )


def check_model(settings: RunConfig, model: RankingModel) -> None:
    """Raise ValueError, before anything is evaluated, if more dimensions are asked for than `model` has. Warn if the
    loss compares otherwise than the model."""
    if model.dimension is None:
        return
    if (largest := settings.eval.largest_dimension) >= model.dimension:
        raise ValueError(f"eval.dims: {largest} is not below the model's {model.dimension} dimensions")
    if (largest := largest_dimension(settings.loss)) > model.dimension:
        raise ValueError(f"loss.dims: {largest} is above the model's {model.dimension} dimensions")
    if normalizes_embeddings(settings.loss) and model.similarity == "dot":
        logger.warning(
            "loss Matryoshka normalises embeddings, but the model compares by their dot product: set "
            "loss.normalize=false"
        )


def warn_about_unscaled_scores(settings: RunConfig) -> None:
    """Warn if a loss that expects logits gets unscaled similarities, between -1 and 1 under cosine."""
    if not gives_unscaled_scores(settings.model):
        return
    for loss in filter(takes_logits, all_losses(settings.loss)):
        logger.warning(
            "loss %s gets unscaled similarities, -1 to 1 under cosine, and so learns little: "
            "model.temperature=0.05 (model=bi_encoder_scored) divides them",
            type(loss).__name__,
        )


def gives_unscaled_scores(model: ModelOptions) -> bool:
    """Whether the model's scores are similarities without a scale, set or learned earlier."""
    has_scale = model.scale_options().get("scale") or "scale" in model.saved_scale()
    return "embedding" in model.outputs and not has_scale


def check_scale(settings: RunConfig, name: str) -> None:
    """Raise ValueError if the loss expects a temperature or bias of the model and it has none, or if the model has one
    that the loss does not read."""
    inputs, saved_scale, options = (
        input_names(settings.loss),
        settings.model.saved_scale(),
        settings.model.scale_options(),
    )
    for field, option in (("scale", "temperature"), ("bias", "bias")):
        set_options, saved = dict(options.get(field, {})), field in saved_scale
        if field in inputs and option not in set_options and not saved:
            raise ValueError(
                f"loss {name}: its {option} is null and the model has none: set model.{option} or loss.{option}"
            )
        scales_scores = field == "scale" and any(loss.contract == "list" for loss in all_losses(settings.loss))
        if field in inputs or scales_scores:
            continue
        for key, value in set_options.items():
            raise ValueError(f"model.{key}={value} is not read by loss {name}: leave it out, or set loss.{option}=null")
        if saved:
            logger.warning(
                "the %s learned by %s is not read by loss %s: set loss.%s=null to continue with it",
                option,
                settings.model.name_or_path,
                name,
                option,
            )


def check_auxiliary(role: str, model: Any, is_read: bool, name: str) -> None:
    """Raise ValueError if a teacher or guide is set whose output the loss does not read, or if the loss needs a guide
    and none is set. (A loss may need teacher scores without a teacher: the data may hold them.)"""
    if model is None:
        if role == "guide" and is_read:
            raise ValueError(f"loss {name} needs a guide: add model@guide=bi_encoder guide.name_or_path=...")
        return
    check_is_model(role, model)
    if not model.trainable:
        raise ValueError(f"{role} gives no scores: choose model@{role}=bi_encoder, cross_encoder or llm_reranker")
    if role == "guide":
        check_outputs("a guide", {"embedding"}, model, "model@guide=bi_encoder")
    if role == "teacher" and gives_unscaled_scores(model):
        logger.warning(
            "the teacher's scores are unscaled similarities, a nearly flat target: teacher.temperature=0.05 "
            "(model@teacher=bi_encoder_scored) divides them"
        )
    if not is_read:
        raise ValueError(f"loss {name} does not use a {role}: leave model@{role} out")


def check_data(settings: RunConfig, collection: Any) -> None:
    """Raise `MissingRequirements` if the training lists lack something that the loss needs, and ValueError if there are
    none, they hold weights that the loss does not read, or documents are added to lists of degrees."""
    training = [source.split("train") for source in collection.sources.values()]
    if is_policy(settings.loss) and any(split.weights for split in training):
        raise ValueError(f"data {collection.name} has weights, which trainer=grpo does not use: remove them")
    for source in collection.sources.values():
        check_added_documents(source)
        check_isolated(settings, source)
    available = set(collection.available_with(settings.trainer.list_size))
    if settings.teacher is not None:
        available.add("teacher_scores")
    degrees = remedy_of_degrees(collection)
    if (
        settings.trainer.list_size == 1
        and missing_requirements(settings.loss, available)
        and not missing_requirements(settings.loss, JUDGED_LISTS)
        and not (degrees and missing_requirements(settings.loss, collection.available))
    ):
        name = type(settings.loss).__name__
        raise ValueError(f"trainer.list_size=1: loss {name} needs several documents per query: raise it")
    if missing_requirements(settings.loss, available):
        outputs = settings.model.outputs
        remedy = degrees or remedy_of_positives(settings, collection, available)
        raise MissingRequirements(settings.loss, available, collection.name, outputs=outputs, remedy=remedy)


def check_isolated(settings: RunConfig, source: Any) -> None:
    """Raise ValueError if lists that are compared with no other list teach the loss nothing, or if it compares them all
    the same."""
    if source.in_batch or not has_in_batch_negatives(settings.loss):
        return
    option = f"{source.node}.in_batch=false"
    for loss in all_losses(settings.loss):
        if getattr(loss, "in_batch_negatives", False) and "isolated" not in getattr(loss, "optional_inputs", ()):
            raise ValueError(
                f"{option}: loss {type(loss).__name__} compares all lists of a step (it has no input `isolated`): "
                "leave it out"
            )
    if "comparison" not in source.available_with(settings.trainer.list_size):
        raise ValueError(
            f"{option} leaves the queries of data {source.name} no negatives, since their lists have none: give "
            f"negatives in the data, or set {source.node}.lists.random_fraction=0.5 (random documents) and "
            "trainer.list_size above 1, or leave it out"
        )
    for loss in all_losses(settings.loss):
        if "query_to_doc" not in getattr(loss, "directions", ("query_to_doc",)):
            raise ValueError(
                f"{option}: with loss.directions={list(loss.directions)} a list has negatives in other lists only: add "
                "query_to_doc"
            )


def check_added_documents(source: Any) -> None:
    """Raise ValueError if documents without a label would be added to lists whose labels are degrees of similarity."""
    train = source.split("train")
    if not train.degrees:
        return
    added = source.lists.random_fraction > 0 or any(
        document not in train.judgements[query] for query, found in train.candidates.items() for document, _ in found
    )
    if added:
        raise ValueError(
            f"data {source.name}: {train.degrees}, so labels are degrees of similarity, and documents that "
            f"{source.node}.candidates or {source.node}.lists.random_fraction add to a list have none: leave these "
            f"out, or set {source.node}.relevant_from=X (labels of X and more are relevant)"
        )


def remedy_of_degrees(collection: Any) -> str:
    """What makes degrees of similarity fit a loss that reads relevance; empty if the labels are relevance."""
    for source in collection.sources.values():
        train = source.split("train")
        if degrees := train.degrees:
            levels = {label for judged in train.judgements.values() for label in judged.values()}
            if len(levels) == 1:
                return f"all labels are {levels.pop():g}, from which nothing is learned: give rows with other labels"
            return (
                f"{degrees}, so labels are degrees of similarity: set {source.node}.relevant_from=X (labels of X and "
                "more are relevant), or loss=bce loss.soft_labels=true for labels from 0 to 1 (divide larger ones "
                "by the largest)"
            )
    return ""


def remedy_of_positives(settings: RunConfig, collection: Any, available: set[str]) -> str:
    """What gives negatives to lists that hold relevant documents alone; empty if the loss lacks more than negatives."""
    with_negatives = available | JUDGED_LISTS | {"unit_labels"}
    if missing_requirements(settings.loss, with_negatives) or settings.trainer.list_size < 2:
        return ""
    alone = [source for source in collection.sources.values() if has_only_positives(source.available)]
    return "; ".join(f"set {rename_options(ADD_NEGATIVES, source.node, ('lists',))}" for source in alone)


def has_only_positives(available: Collection[str]) -> bool:
    """Whether lists that give this have a relevant document each, and no other."""
    return "positive" in available and "relevance" not in available
