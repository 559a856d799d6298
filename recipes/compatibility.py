"""Whether the chosen parts fit each other, told before a weight is loaded."""

from __future__ import annotations

import logging
from typing import Any

from data.collection import JUDGED_LISTS
from data.sampling.mixture import Mixture
from evaluation.reranking_evaluator import RerankingConfig
from losses.contracts import (
    MissingRequirements,
    all_losses,
    compares_embeddings,
    has_in_batch_negatives,
    input_names,
    missing_requirements,
)
from models.bi_encoder import BiEncoder, BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from models.export.hub import check_repo_id
from models.llm_reranker import LLMRerankerConfig
from models.loading.quantization import quantization_config
from models.loading.resolve import resolve
from models.scale import saved_scale
from recipes.run_config import RunConfig

logger = logging.getLogger(__name__)

TRAINABLE = (CrossEncoderConfig, LLMRerankerConfig, BiEncoderConfig)
FROZEN_INPUTS = {"teacher": "teacher_scores", "guide": "guide_queries"}  # what each frozen model gives


def check_parts(settings: RunConfig) -> None:
    """Raise ValueError, in one line, where model, loss, trainer, evaluation and frozen models do not fit."""
    if not isinstance(settings.model, TRAINABLE):
        raise ValueError("this model is for launch/evaluate.py: train model=cross_encoder, llm_reranker or bi_encoder")
    settings.trainer.check(settings.loss)
    name = type(settings.loss).__name__
    is_bi_encoder = isinstance(settings.model, BiEncoderConfig)
    if compares_embeddings(settings.loss) and not is_bi_encoder:
        raise ValueError(f"loss {name} compares embeddings: it needs model=bi_encoder, not a reranker")
    if "logsumexp" in input_names(settings.loss) and not isinstance(settings.model, LLMRerankerConfig):
        raise ValueError(
            f"loss {name} is a policy over a vocabulary, which only model=llm_reranker has: loss.vocabulary=false and "
            "loss.format_weight=0 (loss=token_policy) are over the score alone"
        )
    if has_in_batch_negatives(settings.loss) and settings.trainer.batch_size * settings.trainer.list_size < 2:
        raise ValueError(f"loss {name} compares documents, and a step has one: raise trainer.batch_size or list_size")
    if isinstance(settings.model, BiEncoderConfig):
        warn_of_dot_products(settings)
        if settings.model.temperature is None:
            warn_of_cosines(settings.loss)
    if not is_bi_encoder and not isinstance(settings.eval, RerankingConfig):
        raise ValueError("a reranker scores pairs and cannot search a corpus: it is measured by eval=reranking")
    check_scale(settings, name)
    check_line_breaks(settings)
    quantization_config(getattr(settings.model, "quantization", None))
    if settings.push_to_hub:
        check_repo_id(settings.push_to_hub)
    if settings.adapter_only:
        check_adapter(settings.model)
    for role, given in FROZEN_INPUTS.items():
        check_frozen(role, getattr(settings, role), given in input_names(settings.loss), name)


def check_line_breaks(settings: RunConfig) -> None:
    """Raise ValueError where a prompt of the command line holds a backslash and an n for a line break."""
    prompts = {f"model.prompts.{role}": text for role, text in (getattr(settings.model, "prompts", None) or {}).items()}
    prompts |= {f"data.{name}": getattr(settings.data, name, None) for name in ("query_prompt", "document_prompt")}
    for key, prompt in prompts.items():
        if "\\n" in (prompt or ""):
            raise ValueError(
                f"{key} holds a backslash and an n, no line break: quote it as $'...' in the shell, or write it in YAML"
            )


def check_adapter(model: Any) -> None:
    """Raise ValueError where `adapter_only` would export what nobody can load."""
    if model.lora is None:
        raise ValueError("adapter_only=true: there is no adapter without LoRA: choose a model with lora")
    if getattr(model, "separate_towers", False):
        raise ValueError("adapter_only=true: sentence-transformers loads no adapters of two towers: merge them")
    if (resolve(model.name_or_path, code=model.trust_remote_code) / "adapter_config.json").is_file():
        raise ValueError(
            f"adapter_only=true: {model.name_or_path} is an adapter itself, and one on top of it loads nowhere: leave "
            "it out, or start from a merged model"
        )


def check_model(settings: RunConfig, model: Any) -> None:
    """Raise ValueError, before anything is evaluated, where more dimensions are asked for than `model` has."""
    if not isinstance(model, BiEncoder):
        return
    if (largest := max(getattr(settings.eval, "dims", None) or [0])) >= model.dimension:
        raise ValueError(f"eval.dims: {largest} is not below the model's {model.dimension} dimensions")
    for loss in all_losses(settings.loss):
        if (largest := max(getattr(loss, "dims", None) or [0])) > model.dimension:
            raise ValueError(f"loss.dims: {largest} is above the model's {model.dimension} dimensions")


def warn_of_cosines(loss: Any) -> None:
    """One line where a loss made for logits gets similarities as they are, between -1 and 1."""
    for one in all_losses(loss):
        distils = "teacher_scores" in input_names(one)  # in whatever unit the teacher has
        if one.contract == "list" and getattr(one, "temperature", 1.0) == 1.0 and not distils:
            logger.warning(
                "loss %s gets similarities as they are, -1 to 1 under cosine, which teach little: "
                "model.temperature=0.05 (model=bi_encoder_scored) divides them",
                type(one).__name__,
            )


def warn_of_dot_products(settings: RunConfig) -> None:
    """One line where Matryoshka puts embeddings to unit length that are compared as they are."""
    normalizes = any(hasattr(loss, "dims") and loss.normalize for loss in all_losses(settings.loss))
    if normalizes and settings.model.similarity == "dot":
        logger.warning("loss Matryoshka trains embeddings of unit length, model.similarity=dot: loss.normalize=false")


def check_scale(settings: RunConfig, name: str) -> None:
    """The temperature belongs to the loss or to the model, never to both."""
    inputs = input_names(settings.loss)
    for field, option in (("scale", "temperature"), ("bias", "bias")):
        given = [key for key in (option, f"learn_{option}") if getattr(settings.model, key, None) not in (None, False)]
        saved = isinstance(settings.model, BiEncoderConfig) and field in saved_scale(
            resolve(settings.model.name_or_path, code=settings.model.trust_remote_code)
        )
        if field in inputs and option not in given and not saved:
            raise ValueError(
                f"loss {name}: its {option} is null and the model has none: set model.{option} or loss.{option}"
            )
        of_scores = field == "scale" and any(loss.contract == "list" for loss in all_losses(settings.loss))
        if field in inputs or of_scores:
            continue
        if given:
            value = getattr(settings.model, given[0])
            raise ValueError(
                f"model.{given[0]}={value} is not read by loss {name}: leave it out, or set loss.{option}=null"
            )
        if saved:
            logger.warning(
                "the %s that %s has learned is not read by loss %s: loss.%s=null would go on with it",
                option,
                settings.model.name_or_path,
                name,
                option,
            )


def check_frozen(role: str, model: Any, read: bool, name: str) -> None:
    """A frozen model is there exactly where the loss reads what it gives (a teacher's scores may also be stored)."""
    if model is None:
        if role == "guide" and read:
            raise ValueError(f"loss {name} needs a guide: add model@guide=bi_encoder guide.name_or_path=...")
        return
    if not isinstance(model, TRAINABLE):
        raise ValueError(f"{role} is no model: choose it by model@{role}=bi_encoder, cross_encoder or llm_reranker")
    if role == "guide" and not isinstance(model, BiEncoderConfig):
        raise ValueError("a guide gives embeddings: model@guide=bi_encoder")
    unscaled = isinstance(model, BiEncoderConfig) and model.temperature is None
    if role == "teacher" and unscaled and "scale" not in saved_scale(resolve(model.name_or_path)):
        logger.warning(
            "the teacher's scores are similarities as they are, a nearly flat target: teacher.temperature=0.05 "
            "(model@teacher=bi_encoder_scored) divides them"
        )
    if not read:
        raise ValueError(f"loss {name} reads nothing of a {role}: leave model@{role} out")


def check_data(settings: RunConfig, collection: Any) -> None:
    """Raise ValueError where the loss needs what the training lists do not give (`MissingRequirements`), or does not
    read what they carry."""
    sources = collection.sources.values() if isinstance(collection, Mixture) else [collection]
    if hasattr(settings.loss, "sample") and any(source.split("train").weights for source in sources):
        raise ValueError(f"data {collection.name} weighs its rows, which trainer=grpo does not: remove their weights")
    available = set(collection.available_with(settings.trainer.list_size))
    if settings.teacher is not None:
        available.add("teacher_scores")
    if (
        settings.trainer.list_size == 1
        and missing_requirements(settings.loss, available)
        and not missing_requirements(settings.loss, JUDGED_LISTS)
    ):
        name = type(settings.loss).__name__
        raise ValueError(f"trainer.list_size=1: loss {name} learns from several documents of a query: raise it")
    if missing_requirements(settings.loss, available):
        embeddings = isinstance(settings.model, BiEncoderConfig)
        raise MissingRequirements(settings.loss, available, collection.name, embeddings=embeddings)
