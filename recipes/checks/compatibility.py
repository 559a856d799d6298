"""Check that the chosen parts fit each other, from what each of them declares, before a weight is loaded."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from data.option_names import ROOT
from inference.search import check_fit
from losses.contracts import (
    OUTPUTS,
    all_losses,
    has_in_batch_negatives,
    input_names,
    largest_dimension,
    normalizes_embeddings,
    reads_one_vector,
    reads_projection,
    required_outputs,
    standardizes_teacher,
    takes_logits,
    whole_losses,
)
from losses.embedding_distillation import check_dimensions
from losses.math.similarity import SIMILARITIES, similarity_named
from losses.matryoshka import cuts_embeddings
from losses.quantization_aware import quantizes_embeddings
from losses.xtr import reads_token_vectors
from models.capabilities import ModelOptions, RankingModel
from models.export.hub import check_repo_id
from recipes.checks.refresh import check_refresh
from recipes.chosen_losses import chosen_losses
from recipes.run_config import RunConfig

logger = logging.getLogger(__name__)

AUXILIARY_INPUTS = {
    "teacher": frozenset({"teacher_scores", "teacher_queries"}),
    "guide": frozenset({"guide_queries"}),
}  # role of an auxiliary model -> the inputs of a loss that it fills
MODELS_BY_OUTPUT = {  # output -> the models to choose for it
    "score": "model=cross_encoder or llm_reranker",
    "embedding": "model=bi_encoder",
    "layers": "model=bi_encoder",
    "logsumexp": "model=llm_reranker, or a policy over the score alone (loss=token_policy: loss.vocabulary=false, "
    "loss.format_weight=0)",
}


def check_parts(settings: RunConfig, node: str = ROOT) -> None:
    """Raise ValueError, in one line, if model, losses, trainer, evaluation, teacher and guide do not fit.

    `node` is that of the training data in the settings, for messages.
    """
    check_is_model("model", settings.model)
    check_is_data(settings.data)
    if not settings.model.trainable:
        command = "evaluate" if settings.model.retrieves_by_itself else "make_queries"
        raise ValueError(
            f"this model is for launch/{command}.py: train model=cross_encoder, llm_reranker or bi_encoder"
        )
    chosen = chosen_losses(settings, node)
    losses = [each.loss for each in chosen]
    for each in chosen:
        with each.named_in_errors():
            check_loss(settings, each.loss)
    check_evaluation(settings.eval, settings.model)
    check_scale_is_read(settings, losses)
    check_projection_is_read(settings.model, losses)
    check_line_breaks(settings)
    check_packing(settings)
    settings.model.check_machine()
    if settings.push_to_hub:
        check_repo_id(settings.push_to_hub)
    if settings.adapter_only:
        settings.model.check_adapter_only()
    for role in AUXILIARY_INPUTS:
        check_auxiliary(role, getattr(settings, role), losses)
    check_refresh(settings, losses)
    check_negatives(settings.trainer.negatives, losses)
    if not settings.engine.takes_optimizer(settings.trainer.optimizer):
        raise ValueError(
            f"trainer.optimizer={settings.trainer.optimizer} does not run on engine={settings.engine.name}, which "
            "divides the optimizer state over the ranks: set engine=torch or zero0, or trainer.optimizer=adamw"
        )


def check_loss(settings: RunConfig, loss: Any) -> None:
    """Raise ValueError if a loss does not fit the trainer or the model."""
    settings.trainer.check(loss)
    name = type(loss).__name__
    tokens = reads_token_vectors(loss)
    check_outputs(f"loss {name}", required_outputs(loss), settings.model, "model=late_interaction" if tokens else None)
    if tokens and settings.model.one_vector:
        raise ValueError(
            f"loss {name} needs a vector per token, and {type(settings.model).__name__} gives one vector per text: "
            f"choose model=late_interaction, or another loss, such as loss={settings.model.default_loss}"
        )
    if reads_one_vector(loss) and not settings.model.one_vector:
        model = settings.model
        other = f"choose one that compares by any similarity, such as loss={model.default_loss}"
        raise ValueError(
            f"loss {name} reads one vector per text, and {type(model).__name__} gives several: "
            f"{getattr(loss, 'many_vectors_remedy', '') or other}, or model=bi_encoder"
        )
    if cuts_embeddings(loss) and not settings.model.ordered_dimensions:
        raise ValueError(
            f"loss {name} trains the first dimensions of embeddings alone, and those of "
            f"{type(settings.model).__name__} are in no order of use: choose the loss inside it, such as "
            f"loss={settings.model.default_loss}, or model=bi_encoder"
        )
    if quantizes_embeddings(loss) and not settings.model.ordered_dimensions:
        raise ValueError(
            f"loss {name} trains embeddings for int8 or bits, and an index stores those of "
            f"{type(settings.model).__name__} as the few weights that are not 0: choose the loss inside it, such as "
            f"loss={settings.model.default_loss}, or model=bi_encoder"
        )
    if settings.model.ordered_dimensions and any(getattr(each, "is_penalty", False) for each in all_losses(loss)):
        raise ValueError(
            f"loss {name} makes the weights of tokens zero, and {type(settings.model).__name__} gives none: choose "
            f"model=sparse_encoder, or a loss such as loss={settings.model.default_loss}"
        )
    if has_in_batch_negatives(loss) and settings.trainer.batch_size * settings.trainer.list_size < 2:
        raise ValueError(f"loss {name} compares documents, and a step has one: raise trainer.batch_size or list_size")
    if "embedding" in settings.model.outputs:
        warn_about_unscaled_scores(settings.model, loss)
    check_scale(settings.model, loss)


def check_negatives(negatives: str, losses: Sequence[Any]) -> None:
    """Raise ValueError if no loss reads which ranks' texts are `negatives` of each other, or one cannot."""
    if negatives == "global":
        return
    option = f"trainer.negatives={negatives}"
    for each in (each for loss in losses for each in whole_losses(loss)):
        if has_in_batch_negatives(each):
            raise ValueError(
                f"{option}: loss {type(each).__name__} compares all lists of a step, since it is not `sharded` "
                "(CONTRIBUTING.md): leave it out"
            )
    if not any(has_in_batch_negatives(loss) for loss in losses):
        raise ValueError(f"{option}: {in_words(losses)} not compare lists with each other: leave it out")


def in_words(losses: Sequence[Any]) -> str:
    """The names of losses, as the beginning of a message about all of them."""
    names = list(dict.fromkeys(type(loss).__name__ for loss in losses))
    return f"loss {names[0]} does" if len(names) == 1 else f"losses {', '.join(names)} do"


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
    if getattr(options, "loss", None) is not None:
        raise ValueError("data.loss is for the data sets of a mixture (data.sources.NAME.loss): set loss=NAME instead")


def check_outputs(what: str, required: Collection[str], options: ModelOptions, choose: str | None = None) -> None:
    """Raise ValueError if the model does not give all outputs that `what` requires. The message names what to `choose`
    instead (None: a model that gives them)."""
    outputs = " and ".join(sorted(options.outputs)) or "neither scores nor embeddings"
    for output in OUTPUTS:
        if output in required and output not in options.outputs:
            raise ValueError(
                f"{what} needs {OUTPUTS[output]}, and the model gives {outputs}: choose "
                f"{choose or MODELS_BY_OUTPUT[output]}"
            )


def check_evaluation(evaluation: Any, model: ModelOptions) -> None:
    """Raise ValueError if an evaluation reads an output that the model does not give, the first dimensions of
    embeddings that have no order of use, or an index that cannot search them."""
    check_outputs("this evaluation", evaluation.required_outputs, model, "eval=reranking")
    if evaluation.largest_dimension and not model.ordered_dimensions:
        raise ValueError(
            f"eval.dims: the dimensions of {type(model).__name__}'s embeddings are in no order of use, so the first "
            "alone tell nothing: leave it out (eval.dims=[])"
        )
    if (search := getattr(evaluation, "search", "exact")) != "exact":  # which every model fits, without a folder
        name = model.known_similarity()
        of_vectors = [each for each in SIMILARITIES.values() if each.is_ragged != model.one_vector]
        check_fit(search, [similarity_named(name)] if name else of_vectors)


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


def check_packing(settings: RunConfig) -> None:
    """Raise ValueError if rows shall be packed and the model be compiled: every chunk would be compiled again."""
    if getattr(settings.model, "packing", None) and getattr(settings.engine, "compile", False):
        raise ValueError(
            "engine.compile=true runs padded rows: leave out model.packing=true (null), or set engine.compile=false"
        )


def check_model(settings: RunConfig, model: RankingModel) -> None:
    """Raise ValueError, before anything is evaluated, if more dimensions are asked for than `model` has. Warn if the
    loss compares otherwise than the model."""
    if model.dimension is None:
        return
    if (largest := settings.eval.largest_dimension) >= model.dimension:
        raise ValueError(f"eval.dims: {largest} is not below the model's {model.dimension} dimensions")
    for each in chosen_losses(settings):
        if (largest := largest_dimension(each.loss)) > model.dimension:
            raise ValueError(f"{each.option}.dims: {largest} is above the model's {model.dimension} dimensions")
        if normalizes_embeddings(each.loss) and model.similarity == "dot":
            if "int8_ranges" in input_names(each.loss):
                raise ValueError(
                    f"{each.option}: Matryoshka normalises embeddings, which this model, that compares by their dot "
                    f"product, stores as they are: their int8 ranges would not fit; set {each.option}.normalize=false"
                )
            logger.warning(
                "loss Matryoshka normalises embeddings, but the model compares by their dot product: set "
                "%s.normalize=false",
                each.option,
            )


def warn_about_unscaled_scores(model: ModelOptions, loss: Any) -> None:
    """Warn if a loss that expects logits gets unscaled similarities, between -1 and 1 under cosine."""
    if not gives_unscaled_scores(model):
        return
    for each in filter(takes_logits, all_losses(loss)):
        logger.warning(
            "loss %s gets unscaled similarities, -1 to 1 under cosine, and so learns little: "
            "model.temperature=0.05 (model=bi_encoder_scored) divides them",
            type(each).__name__,
        )


def gives_unscaled_scores(model: ModelOptions) -> bool:
    """Whether the model's scores are small similarities without a scale, set or learned earlier."""
    if not model.small_similarities:
        return False
    has_scale = model.scale_options().get("scale") or "scale" in model.saved_scale()
    return "embedding" in model.outputs and not has_scale


SCALE_OPTIONS = (("scale", "temperature"), ("bias", "bias"))  # input of a loss, and the option that gives it


def check_scale(model: ModelOptions, loss: Any) -> None:
    """Raise ValueError if the loss expects a temperature or bias of the model and it has none."""
    for field, option in SCALE_OPTIONS:
        set_options, saved = model.scale_options().get(field, {}), field in model.saved_scale()
        if field in input_names(loss) and option not in set_options and not saved:
            raise ValueError(
                f"loss {type(loss).__name__}: its {option} is null and the model has none: set model.{option} or "
                f"loss.{option}"
            )


def check_scale_is_read(settings: RunConfig, losses: Sequence[Any]) -> None:
    """Raise ValueError if the model has a temperature or bias that none of the losses reads."""
    names = ", ".join(dict.fromkeys(type(loss).__name__ for loss in losses))
    inputs = {name for loss in losses for name in input_names(loss)}
    scales_scores = any(each.contract == "list" for loss in losses for each in all_losses(loss))
    for field, option in SCALE_OPTIONS:
        if field in inputs or (field == "scale" and scales_scores):
            continue
        for key, value in settings.model.scale_options().get(field, {}).items():
            raise ValueError(
                f"model.{key}={value} is not read by loss {names}: leave it out, or set loss.{option}=null"
            )
        if field in settings.model.saved_scale():
            logger.warning(
                "the %s learned by %s is not read by loss %s: set loss.%s=null to continue with it",
                option,
                settings.model.name_or_path,
                names,
                option,
            )


def check_projection_is_read(model: ModelOptions, losses: Sequence[Any]) -> None:
    """Raise ValueError if the model projects to a teacher's dimension and none of the losses reads that."""
    dimension = getattr(model, "teacher_projection", None)
    if dimension is not None and not any(map(reads_projection, losses)):
        raise ValueError(
            f"model.teacher_projection={dimension} is not read by loss {in_words(losses).split(' ')[1]}: leave it out, "
            "or choose loss=embedding_distillation"
        )


def check_teacher_embeddings(model: RankingModel, teacher: RankingModel | None, losses: Sequence[Any]) -> None:
    """Raise ValueError if a loss would compare the embeddings of `model` and `teacher`, whose dimensions differ."""
    if teacher is None or teacher.dimension is None or model.dimension is None:
        return
    projection: Any = getattr(model, "teacher_projection", None)
    student = model.dimension if projection is None else projection.linear.out_features
    if any(map(reads_projection, losses)):
        check_dimensions(student, teacher.dimension)


def check_score_scale(model: RankingModel, losses: Sequence[Any]) -> None:
    """Raise ValueError if a loss gives a fresh score head the teacher's scale, and its export could not hold it."""
    if model.fresh_head and not model.scales_scores and any(map(standardizes_teacher, losses)):
        raise ValueError(
            f"loss.standardize=true: the fresh score head of {model.source} has no bias, so the export could not give "
            "scores around the teacher's mean: set loss.standardize=false, or choose an encoder"
        )


def check_auxiliary(role: str, model: Any, losses: Sequence[Any]) -> None:
    """Raise ValueError if a teacher or guide is set whose output no loss reads, or if a loss needs a guide and none is
    set. (A loss may need teacher scores without a teacher: the data may hold them.)"""
    readers = [loss for loss in losses if not AUXILIARY_INPUTS[role].isdisjoint(input_names(loss))]
    embedding = [loss for loss in losses if f"{role}_queries" in input_names(loss)]
    if model is None:
        if embedding:
            name = type(embedding[0]).__name__
            raise ValueError(f"loss {name} needs a {role}: add model@{role}=bi_encoder {role}.name_or_path=...")
        return
    check_is_model(role, model)
    if not model.trainable:
        raise ValueError(f"{role} gives no scores: choose model@{role}=bi_encoder, cross_encoder or llm_reranker")
    if embedding or role == "guide":
        what = "a guide" if role == "guide" else "a teacher of embeddings"
        check_outputs(what, {"embedding"}, model, f"model@{role}=bi_encoder")
        if not model.one_vector:
            raise ValueError(
                f"{what} gives one vector per text, and {type(model).__name__} several: choose model@{role}=bi_encoder"
                + ", or a loss that reads its scores, such as loss=kl_distillation" * (role == "teacher")
            )
    reads_scores = any("teacher_scores" in input_names(loss) for loss in losses)
    if role == "teacher" and reads_scores and gives_unscaled_scores(model):
        logger.warning(
            "the teacher's scores are unscaled similarities, a nearly flat target: teacher.temperature=0.05 "
            "(model@teacher=bi_encoder_scored) divides them"
        )
    if not readers:
        raise ValueError(f"{in_words(losses)} not use a {role}: leave model@{role} out")
