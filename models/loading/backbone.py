"""Load pretrained weights in float32, from safetensors, without remote code and without library logging."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    BitsAndBytesConfig,
    MT5EncoderModel,
    PretrainedConfig,
    PreTrainedModel,
    T5EncoderModel,
    UMT5EncoderModel,
)
from transformers.utils import logging as transformers_logging

from models.cpu.kernels import use_cpu_kernels
from models.loading.folder import ModelFolder, first_line

logger = logging.getLogger(__name__)

# model_type of an encoder-decoder -> its encoder alone, which embeds texts: sentence-transformers loads the same class
ENCODERS: dict[str, Any] = {"t5": T5EncoderModel, "mt5": MT5EncoderModel, "umt5": UMT5EncoderModel}
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flex_attention")

_skips_weights: ContextVar[bool] = ContextVar("skips_weights", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Build models on torch's meta device: they have modules and shapes, and no weights are read."""
    token = _skips_weights.set(True)
    try:
        yield
    finally:
        _skips_weights.reset(token)


def skips_weights() -> bool:
    """Whether models are built without their weights."""
    return _skips_weights.get()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars, load reports and deprecation warnings of transformers."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # saving imports DeepSpeed if it is installed, and that logs about accelerators
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.disable(disabled)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_config(folder: ModelFolder, *, embeds: bool = False, writes: bool = False) -> PretrainedConfig:
    """The folder's configuration. Raises ValueError if it cannot be read, or belongs to an encoder-decoder.

    A model that `embeds` texts may be the encoder of one, a model that `writes` texts may be one.
    """
    if folder.is_static:
        raise ValueError(
            f"model {folder.path} is a table of token vectors, no transformer: choose model=static_embedder"
        )
    try:
        with quiet():
            config = AutoConfig.from_pretrained(
                folder.backbone, trust_remote_code=folder.trusted, local_files_only=True
            )
    except (ValueError, ImportError, OSError, KeyError) as error:
        raise loading_error(folder, error) from error
    if folder.trusted and getattr(config, "auto_map", None):
        logger.warning("model %s: Python files of its folder are run (model.trust_remote_code=true)", folder.path)
    # The encoders of T5 have no is_encoder_decoder.
    if not writes and (config.is_encoder_decoder or hasattr(config, "num_decoder_layers")):
        if config.model_type not in ENCODERS:
            raise ValueError(
                f"model {folder.path}: {config.model_type} is an encoder-decoder; choose an encoder or decoder"
            )
        if not embeds:
            raise ValueError(
                f"model {folder.path}: {config.model_type} is an encoder-decoder, whose encoder is read as an "
                "embedding model only: choose model=bi_encoder, or an encoder or decoder"
            )
    config.use_cache = False
    return config


def embedding_class(config: PretrainedConfig) -> Any:
    """The class that loads an embedding model of this architecture."""
    return ENCODERS.get(config.model_type, AutoModel)


def loading_error(folder: ModelFolder, error: BaseException) -> ValueError:
    """The error for a folder that transformers cannot load."""
    if not folder.trusted and "trust_remote_code" in str(error):
        return ValueError(
            f"model {folder.path} contains Python files that would be run: read them, and if you trust them "
            "set trust_remote_code=true (model.trust_remote_code, or the teacher's or guide's)"
        )
    if isinstance(error, SafetensorError):
        return ValueError(
            f"model {folder.path}: its weights are not a complete safetensors file ({first_line(error)}): copy them "
            "again"
        )
    return ValueError(f"model {folder.path}: {first_line(error)}")


def load_backbone(
    auto_class: Any,
    folder: ModelFolder,
    config: PretrainedConfig,
    attention: str | None,
    quantization: BitsAndBytesConfig | None = None,
) -> tuple[PreTrainedModel, list[str]]:
    """Load the model in float32 on the CPU. Also returns the names of parameters that the checkpoint lacks (those of a
    new head or pooler), which are drawn from torch's CPU generator. Raises ValueError in one line.
    """
    if attention is not None and attention not in ATTENTIONS:
        raise ValueError(f"model.attention={attention}: choose null (the best the model has), {', '.join(ATTENTIONS)}")
    try:
        with quiet():
            model, report = auto_class.from_pretrained(
                folder.backbone,
                config=config,
                dtype=torch.float32,  # "auto" would train in the checkpoint's precision, which is often half
                attn_implementation=attention,
                quantization_config=quantization,
                device_map={"": "meta"} if _skips_weights.get() else None,
                use_safetensors=True,
                trust_remote_code=folder.trusted,
                local_files_only=True,
                output_loading_info=True,
            )
    except (ValueError, ImportError, OSError, RuntimeError, SafetensorError) as error:  # RuntimeError: other sizes
        if attention == "flash_attention_2" and isinstance(error, ImportError):
            reason = first_line(error).rpartition("following error:")[2].strip(" .")
            raise ValueError(
                f"model.attention=flash_attention_2: {reason}: leave it out (null: the best that runs here), or "
                "install the package flash-attn, which needs CUDA"
            ) from error
        raise loading_error(folder, error) from error
    except AssertionError as error:  # torch's, of the padding index
        raise ValueError(
            f"model {folder.path}: config.json: pad_token_id={config.pad_token_id} has no row in the embeddings: "
            "set it to the id of the tokenizer's padding token"
        ) from error
    missing = sorted(report["missing_keys"])
    prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
    if lost := [key for key in missing if key.startswith(prefix) and "pooler." not in key]:
        raise ValueError(f"model {folder.path}: the weights lack {len(lost)} tensors of the backbone, as {lost[0]}")
    use_cpu_kernels(model)
    return model, missing


def recompute_activations(model: PreTrainedModel | PeftModel) -> None:
    """Switch gradient checkpointing on: activations are computed again in backward."""
    with quiet():
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if isinstance(model, PeftModel):
        model.enable_input_require_grads()  # otherwise checkpointing of frozen inputs would cut the graph


def embedding_rows(model: PreTrainedModel) -> int:
    """The number of token ids that the model's embeddings have a row for."""
    weight: Any = model.get_input_embeddings().weight
    return len(weight)


def position_limit(model: PreTrainedModel) -> int:
    """The most tokens of a row that the position embeddings allow (RoBERTa's start after the padding index)."""
    limit = getattr(model.config, "max_position_embeddings", None) or -1
    if limit < 0:
        return 1 << 30
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return limit - module.padding_idx - 1
    return limit


def check_max_length(folder: ModelFolder, model: PreTrainedModel, max_length: int) -> int:
    if not 8 <= max_length <= position_limit(model):
        raise ValueError(
            f"model.max_length={max_length}: {folder.path} reads rows of 8 to {position_limit(model)} tokens: give "
            "such a length, or leave it out (null: the one that the folder was trained with)"
        )
    return max_length
