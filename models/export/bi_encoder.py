"""Write a bi-encoder as a folder that SentenceTransformer can load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.export.control_tokens import note
from models.export.folder import list_prompts, new_folder, write_card
from models.export.serving import serve_bi_encoder
from models.export.texts import MODULE, PROMPTS, ROUTER, all_prompts, write_dense, write_model_files, write_routes
from models.int8_ranges import FILE as RANGES
from models.tokenization import UNLIMITED
from models.towers import Dense, TextTower, towers_of

if TYPE_CHECKING:
    from models.bi_encoder import BiEncoder

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
        else:
            routes = {role: _write_modules(model, tower, work, prefix=f"{role}_") for role, tower in towers.items()}
            write_routes(work, routes)
            modules = [ROUTER]
        write_model_files(model, work, modules)
        if model.int8_ranges is not None:
            model.int8_ranges.save(work, model.dimension)
        _write_card(model, work, str(folder), card)


def _write_modules(
    model: BiEncoder, tower: TextTower, work: Path, *, prefix: str, adapter_only: bool = False
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
