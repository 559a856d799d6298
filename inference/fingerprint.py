"""The fingerprint of a model: equal for two models that give the same outputs for the same texts."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import nn

import inference
import models
from data.collection import content_hash
from data.hashing import file_digest
from inference.runner import int8_ranges_of
from models.cpu.kernels import plain_class
from models.int8_ranges import Int8Ranges

# Keys of configurations, and attributes of modules, that say where a model came from or how it is trained.
NAMES = ("name_or_path", "_name_or_path", "base_model_name_or_path", "source", "revision")
OF_TRAINING = ("training", "inference_mode", "requested_dropout", "fresh_head", "wanted_outputs")
WITHOUT_EFFECT = frozenset((*NAMES, *OF_TRAINING, "memory", "transformers_version", "peft_version"))
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")  # their modules are described by their configuration
REMOTE = "transformers_modules"  # the package of a model's own Python files
VERSIONS = ("torch", "transformers", "tokenizers")
# Of a module: tokenizer and ranges are hashed on their own; packed rows give the same outputs up to rounding.
NO_SETTINGS = frozenset((*WITHOUT_EFFECT, "tokenizer", "int8_ranges", "packings"))
RANGES = "int8_ranges."  # of the names in a model's state
TRUNCATION = ("truncation", "padding")  # of a fast tokenizer: what its last call has set


def model_fingerprint(model: nn.Module, *, precision: str = "fp32") -> str:
    """A hash of all that the outputs of `model` depend on (`model_key`)."""
    return content_hash(model_key(model, precision=precision))


def model_key(model: nn.Module, *, precision: str = "fp32") -> dict[str, str]:
    """A hash of each part that the outputs of `model` depend on, by the name of the part:

    - weights: every tensor of its state, in order, in the bytes of its own type;
    - architecture: its modules and their configuration, but for dropout;
    - tokenizer: vocabulary, rules, special tokens, padding; length: the most tokens of a row; prompts: its own;
    - int8_ranges: those in which its embeddings are stored as int8, only if it has such: they change no output;
    - precision: of the forward pass, as given ("fp32", "bf16");
    - code: of models/ and inference/, of modules from elsewhere, and the versions of the libraries.

    The name or folder of the model is no part. Call it once the run's prompts are known (`expect_prompts`): they change
    how texts are read. Weights are read one by one: 1 GB takes less than a second.
    """
    tokenizer = describe(getattr(model, "tokenizer", None))
    prompts, length = {}, None
    if isinstance(tokenizer, dict):
        prompts = {name: tokenizer.pop(name) for name in sorted(tokenizer) if "prompt" in name}
        length = tokenizer.pop("max_length", None)
    ranges = int8_ranges_of(model)
    known = {} if ranges is None else ranges.known()
    return {
        "weights": weights_digest(model),
        "architecture": content_hash(_architecture(model)),
        "tokenizer": content_hash([tokenizer]),
        "length": str(length),
        "prompts": content_hash(prompts),
        **({"int8_ranges": content_hash([[dim, known[dim].tolist()] for dim in sorted(known)])} if known else {}),
        "precision": precision,
        "code": _code_digest(model),
    }


def weights_digest(model: nn.Module) -> str:
    """A hash of names, types, shapes and values of all tensors that `model` saves, but for its int8 ranges."""
    digest = xxhash.xxh3_128()
    for name, value in model.state_dict().items():
        if name.startswith(RANGES):
            continue
        if not isinstance(value, torch.Tensor):
            digest.update(json.dumps([name, describe(value)]).encode())
            continue
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        if value.numel():
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _architecture(model: nn.Module) -> Iterator[Any]:
    """What the outputs depend on beside the weights, in JSON types: of each module its class and its settings."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout | Int8Ranges):
            continue
        settings: Any = module.extra_repr()
        if not _is_of(module, (*LIBRARIES, REMOTE)):
            settings = {key: describe(value) for key, value in vars(module).items() if key[0] != "_"}
            settings = {key: value for key, value in settings.items() if key not in NO_SETTINGS}
        configurations = [describe(getattr(module, key, None)) for key in ("config", "peft_config")]
        yield [name, plain_class(module).__qualname__, settings, configurations]


def describe(value: Any) -> Any:
    """Describe a value in JSON types, equal for values that do the same. What only training reads, and names and places
    are left out."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        items = {str(key): describe(item) for key, item in value.items() if key not in WITHOUT_EFFECT}
        return {key: items[key] for key in sorted(items) if "dropout" not in key}
    if isinstance(value, AbstractSet):
        return sorted(json.dumps(describe(item)) for item in value)
    if isinstance(value, Sequence):
        return [describe(item) for item in value]
    if hasattr(value, "backend_tokenizer"):
        return _describe_tokenizer(value)
    if hasattr(value, "to_dict"):  # a configuration of transformers or peft
        attention = getattr(value, "_attn_implementation", None)
        return [type(value).__name__, attention, describe(value.to_dict())]
    if is_dataclass(value) and not isinstance(value, type):
        return describe({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, nn.Module | torch.Tensor | torch.dtype | torch.device):
        return type(value).__name__  # modules and tensors are hashed on their own
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    settings = {key: item for key, item in getattr(value, "__dict__", {}).items() if key[0] != "_"}
    return [type(value).__qualname__, describe(settings)]


def _describe_tokenizer(tokenizer: Any) -> list[Any]:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    rules = {key: value for key, value in backend.items() if key not in TRUNCATION}
    names = ("padding_side", "truncation_side", "split_special_tokens", "special_tokens_map", "model_input_names")
    options = {name: describe(getattr(tokenizer, name, None)) for name in (*names, "pad_token_type_id")}
    return [type(tokenizer).__name__, content_hash([rules]), options, str(getattr(tokenizer, "chat_template", None))]


def _is_of(module: nn.Module, packages: Sequence[str]) -> bool:
    return plain_class(module).__module__.split(".")[0] in packages


def _code_digest(model: nn.Module) -> str:
    """A hash of the code that computes the outputs."""
    kinds = {type(module) for module in model.modules() if not _is_of(module, LIBRARIES)} | {type(model)}
    kinds |= {type(tokenizer) for tokenizer in [getattr(model, "tokenizer", None)] if tokenizer is not None}
    outside = {Path(inspect.getfile(kind)).resolve() for kind in kinds if _has_file(kind)}
    own = _own_files()
    remote = {file for path in outside if REMOTE in path.parts for file in path.parent.glob("*.py")}
    others = sorted((file.name, file_digest(file)) for file in (outside | remote) - set(own))
    return content_hash(list(own.values()), [list(pair) for pair in others], [version(name) for name in VERSIONS])


@cache
def _own_files() -> dict[Path, list[str]]:
    """The files of models/ and inference/, with their name and hash."""
    folders = [Path(package.__path__[0]).resolve() for package in (models, inference)]
    files = [(file, str(file.relative_to(folder))) for folder in folders for file in sorted(folder.rglob("*.py"))]
    return {file: [name, file_digest(file)] for file, name in files}


def _has_file(kind: type) -> bool:
    return bool(getattr(sys.modules.get(kind.__module__), "__file__", None))
