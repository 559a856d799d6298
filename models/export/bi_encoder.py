"""Write a bi-encoder as a folder that SentenceTransformer can load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from models.export.control_tokens import note, own_settings
from models.export.folder import (
    full_state_dict,
    list_prompts,
    new_folder,
    versions,
    write_card,
    write_json,
)
from models.export.serving import serve_bi_encoder
from models.int8_ranges import FILE as RANGES
from models.scale import FILE
from models.tokenization import UNLIMITED, TextTokenizer
from models.towers import Dense, TextTower, towers_of

if TYPE_CHECKING:
    from models.bi_encoder import BiEncoder

MODULE = "sentence_transformers.models."  # the name that old and new releases know
USAGE = """## Use

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}")
queries = model.encode_query(["a query"])
documents = model.encode_document(["a document", "another document"])
similarities = model.similarity(queries, documents)
```

{dimension} dimensions, compared by {similarity}. {cut}
{ranges}{prompts}"""
INT8 = """
Trained for documents that are stored as int8, in the ranges of int8_ranges.npy:

```python
import numpy as np
from sentence_transformers.util import quantize_embeddings

codes = quantize_embeddings(documents, "int8", ranges=np.load("{file}"))
```
"""
INT8_OF_DIMS = "\nRanges of embeddings cut to {dims} dimensions{unit}: int8_ranges_dim*.npy.\n"
PROMPTS = (
    "Prompts: `encode_query` and `encode_document` put the one of their name before a text, with `prompt_name=NAME` "
    "another one:"
)


def export_bi_encoder(model: BiEncoder, folder: Path, *, card: str | None = None, adapter_only: bool = False) -> None:
    """Write weights (safetensors), modules, prompts, tokenizer and model card to `folder`, replacing it in one rename.

    Call it on one rank, inside `engine.full_weights()`: only `model.state_dict()` is read, and `model` does not
    change. LoRA is merged into the weights. With `adapter_only` the folder holds the adapter and the other trained
    weights, and can be loaded wherever the base model can. The model's temperature and bias are kept for further
    training. `card` is Markdown that comes after the card's header, before the usage. Raises ValueError if the adapter
    alone could not be loaded.
    """
    towers = towers_of(model.tower)
    if adapter_only and len(towers) > 1:
        raise ValueError("adapter_only: sentence-transformers loads no adapters of two towers: export them merged")
    with new_folder(folder) as work:
        if len(towers) == 1:
            modules = _write_modules(model, towers[""], work, prefix="", adapter_only=adapter_only)
            entries = [{"idx": i, "name": str(i), "path": p, "type": kind} for i, (p, kind) in enumerate(modules)]
        else:
            entries = [{"idx": 0, "name": "0", "path": "", "type": f"{MODULE}Router"}]
            write_json(work / "router_config.json", _write_routes(model, towers, work, adapter_only=adapter_only))
        write_json(work / "modules.json", entries)
        write_json(work / "config_sentence_transformers.json", _settings(model))
        if model.scale is not None:
            full_state_dict(model.scale)  # raises an error if the weights are sharded
            save_file(model.scale.values(), work / FILE)
        if model.int8_ranges is not None:
            model.int8_ranges.save(work, model.dimension)
        _write_card(model, work, str(folder), card)


def _write_routes(model: BiEncoder, towers: dict[str, TextTower], work: Path, *, adapter_only: bool) -> dict[str, Any]:
    """Write the modules of every tower. Returns the Router's configuration. A text without a task is a document."""
    routes = {
        route: _write_modules(model, tower, work, prefix=f"{route}_", adapter_only=adapter_only)
        for route, tower in towers.items()
    }
    return {
        "types": {path: kind for modules in routes.values() for path, kind in modules},
        "structure": {route: [path for path, _ in modules] for route, modules in routes.items()},
        "parameters": {"default_route": "document", "allow_empty_key": True},
    }


def _write_modules(
    model: BiEncoder, tower: TextTower, work: Path, *, prefix: str, adapter_only: bool
) -> list[tuple[str, str]]:
    """Write the modules of one tower. Returns (path, type) in order. With `prefix` all modules are in subfolders."""
    first = tower.write(work, prefix, model.tokenizer, adapter_only=adapter_only)
    modules = [(path, f"{MODULE}{name}") for path, name in first]
    for layer in tower.dense:
        assert isinstance(layer, Dense)
        modules.append((f"{prefix}{len(modules)}_Dense", f"{MODULE}Dense"))
        write_dense(layer, work / modules[-1][0])
    if model.unit_length:
        modules.append((f"{prefix}{len(modules)}_Normalize", f"{MODULE}Normalize"))
        (work / modules[-1][0]).mkdir()
    return modules


def write_dense(layer: Dense, folder: Path, reads: str | None = None) -> None:
    """Write a linear layer; `reads`: of what, if not of embeddings."""
    activation = type(layer.activation)
    config = {
        "in_features": layer.linear.in_features,
        "out_features": layer.linear.out_features,
        "bias": layer.linear.bias is not None,
        "activation_function": f"{activation.__module__}.{activation.__qualname__}",
        **({} if reads is None else {"module_input_name": reads, "module_output_name": reads}),
    }
    write_json(folder / "config.json", config)
    save_file(full_state_dict(layer), folder / "model.safetensors")


def _settings(model: BiEncoder) -> dict[str, Any]:
    return {
        "__version__": versions(),
        "prompts": all_prompts(model.tokenizer),
        "default_prompt_name": model.tokenizer.default_prompt,
        "similarity_fn_name": model.similarity,
        **own_settings(model.tokenizer),
    }


def all_prompts(tokenizer: TextTokenizer) -> dict[str, str]:
    """All prompts, with explicit ones for both roles: releases of sentence-transformers replace a missing one
    differently."""
    if not tokenizer.prompts:
        return {}
    return {**tokenizer.prompts, **{role: tokenizer.prompt(role) for role in ("query", "document")}}


def _about_ranges(model: BiEncoder, name: str) -> str:
    """Markdown on the ranges of int8; empty if the model has none."""
    dims = set() if model.int8_ranges is None else {*model.int8_ranges.known()}
    text = INT8.format(file=f"{name}/{RANGES}") if model.dimension in dims else ""
    if cut := sorted(dims - {model.dimension}):
        unit = ", at unit length" if model.similarity == "cosine" else ""
        text += INT8_OF_DIMS.format(dims=", ".join(map(str, cut)), unit=unit)
    return text


def _about_length(max_length: int) -> str:
    return "Texts are read whole." if max_length >= UNLIMITED else f"Texts are cut at {max_length} tokens."


def _write_card(model: BiEncoder, work: Path, name: str, card: str | None) -> None:
    usage = USAGE.format(
        folder=name,
        dimension=model.dimension,
        similarity=model.similarity,
        cut=_about_length(model.tokenizer.max_length),
        ranges=_about_ranges(model, name),
        prompts=note(model.tokenizer) + list_prompts(all_prompts(model.tokenizer), PROMPTS),
    )
    write_card(
        work,
        name=name,
        source=model.source,
        pipeline="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction"],
        body=card,
        usage=usage + serve_bi_encoder(model, name),
    )
