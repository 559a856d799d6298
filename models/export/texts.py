"""Shared parts of the exports of models of single texts: modules, routes, prompts, settings, temperature and bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor

from models.export.control_tokens import own_settings, splits_for_others
from models.export.folder import full_state_dict, versions, write_backbone, write_json, write_tokenizer
from models.scale import FILE
from models.tokenization import TextTokenizer

if TYPE_CHECKING:
    from models.embedding.text_model import TextModel
    from models.towers import Dense

MODULE = "sentence_transformers.models."  # the name that old and new releases know
ROUTER = ("", f"{MODULE}Router")
PROMPTS = (
    "Prompts: `encode_query` and `encode_document` put the one of their name before a text, with `prompt_name=NAME` "
    "another one:"
)

Modules = Sequence[tuple[str, str]]  # the (path, type) of each, in order


def write_model_files(model: TextModel, work: Path, modules: Modules, **settings: Any) -> None:
    """Write the list of modules, the settings of sentence-transformers (`settings`: further ones), and the temperature
    and bias, for further training."""
    entries = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    write_json(work / "modules.json", entries)
    common = {
        "__version__": versions(),
        "prompts": all_prompts(model.tokenizer),
        "default_prompt_name": model.tokenizer.default_prompt,
        "similarity_fn_name": model.similarity,
    }
    write_json(work / "config_sentence_transformers.json", common | settings | own_settings(model.tokenizer))
    if model.scale is not None:
        full_state_dict(model.scale)  # raises an error if the weights are sharded
        save_file(model.scale.values(), work / FILE)


def write_routes(work: Path, routes: Mapping[str, Modules]) -> None:
    """Write the configuration of ROUTER, by whose `routes` texts of a role go. A text without a task is a document."""
    content = {
        "types": {path: kind for modules in routes.values() for path, kind in modules},
        "structure": {route: [path for path, _ in modules] for route, modules in routes.items()},
        "parameters": {"default_route": "document", "allow_empty_key": True},
    }
    write_json(work / "router_config.json", content)


def write_transformer(
    backbone: Any,
    tokenizer: TextTokenizer,
    folder: Path,
    *,
    source: str,
    adapter_only: bool,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the module of a transformer: its weights, tokenizer and length, with further `settings`."""
    folder.mkdir(exist_ok=True)
    write_backbone(backbone, folder, source=source, adapter_only=adapter_only)
    split = splits_for_others(tokenizer)
    write_tokenizer(tokenizer.tokenizer, tokenizer.max_length, folder, split_special_tokens=split)
    lengths = {"max_seq_length": tokenizer.max_length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", lengths | dict(settings or {}))


def write_dense(layer: Dense, folder: Path, reads: str | None = None) -> None:
    """Write a linear layer; `reads`: of what, if not of embeddings."""
    activation = type(layer.activation)
    write_linear(full_state_dict(layer), folder, f"{activation.__module__}.{activation.__qualname__}", reads)


def write_linear(state: Mapping[str, Tensor], folder: Path, activation: str, reads: str | None = None) -> None:
    """Write a linear layer with the weights "linear.weight" and, if it has one, "linear.bias"."""
    rows, columns = state["linear.weight"].shape
    config = {
        "in_features": columns,
        "out_features": rows,
        "bias": "linear.bias" in state,
        "activation_function": activation,
        **({} if reads is None else {"module_input_name": reads, "module_output_name": reads}),
    }
    write_json(folder / "config.json", config)
    save_file(dict(state), folder / "model.safetensors")


def all_prompts(tokenizer: TextTokenizer) -> dict[str, str]:
    """All prompts, with explicit ones for both roles: releases of sentence-transformers replace a missing one
    differently."""
    if not tokenizer.prompts:
        return {}
    return {**tokenizer.prompts, **{role: tokenizer.prompt(role) for role in ("query", "document")}}
