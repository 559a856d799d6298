"""Write a model of late interaction as a folder that sentence-transformers' MultiVectorEncoder loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.export.control_tokens import note
from models.export.folder import list_prompts, new_folder, write_card, write_json
from models.export.texts import write_dense, write_model_files, write_transformer
from models.towers import Dense

if TYPE_CHECKING:
    from models.late_interaction.encoder import LateInteraction

LIBRARY = "sentence_transformers"
TOKENS = "token_embeddings"
USAGE = """## Use

```python
from sentence_transformers import MultiVectorEncoder

model = MultiVectorEncoder("{folder}")
queries = model.encode_query(["a query"])
documents = model.encode_document(["a document", "another document"])
similarities = model.similarity(queries, documents)
```

A vector of {dimension} dimensions per token, compared by {similarity}. Queries are cut at {query_length} tokens,
documents at {document_length}.
{prompts}"""
PROMPTS = "Prompts, which `encode_query` and `encode_document` put before a text:"


def export_late_interaction(
    model: LateInteraction, folder: Path, *, card: str | None = None, adapter_only: bool = False
) -> None:
    """Write weights (safetensors), modules, lengths, prompts, tokenizer and model card to `folder`, replacing it in one
    rename.

    Call it on one rank, inside `engine.full_weights()`. LoRA is merged into the weights; with `adapter_only` the folder
    holds the adapter and the other trained weights. The temperature and bias are kept for further training.
    """
    tokenizer = model.tokenizer
    with new_folder(folder) as work:
        lengths = tokenizer.settings()
        write_transformer(
            model.backbone, tokenizer, work, source=model.source, adapter_only=adapter_only, settings=lengths
        )
        settings = {"model_type": "MultiVectorEncoder", "prompts": _prompts(model), "default_prompt_name": None}
        write_model_files(model, work, _write_modules(model, work), **settings)
        _write_card(model, work, str(folder), card)


def _write_modules(model: LateInteraction, work: Path) -> list[tuple[str, str]]:
    """Write the modules after the transformer. Returns (path, type) of all in order."""
    modules = [("", f"{LIBRARY}.base.modules.transformer.Transformer")]
    for layer in model.dense:
        assert isinstance(layer, Dense)
        modules.append((f"{len(modules)}_Dense", f"{LIBRARY}.base.modules.dense.Dense"))
        write_dense(layer, work / modules[-1][0], reads=TOKENS)
    kind = f"{LIBRARY}.multi_vector_encoder.modules"
    names = model.tokenizer.tokenizer.convert_ids_to_tokens(list(model.tokenizer.skipped))
    mask = {"skiplist_words": names, "skiplist_tasks": list(model.tokenizer.skipped_roles), "keep_only_token_ids": None}
    further: list[tuple[str, str, dict[str, Any]]] = [
        ("MultiVectorMask", f"{kind}.multi_vector_mask.MultiVectorMask", mask),
        (
            "Normalize",
            f"{LIBRARY}.base.modules.normalize.Normalize",
            {"module_input_name": TOKENS, "module_output_name": TOKENS},
        ),
    ]
    if model.pooling is not None:
        further.append(
            ("HierarchicalTokenPooling", f"{kind}.token_pooling.HierarchicalTokenPooling", dict(model.pooling))
        )
    for name, path, config in further:
        modules.append((f"{len(modules)}_{name}", path))
        write_json(work / modules[-1][0] / "config.json", config)
    return modules


def _prompts(model: LateInteraction) -> dict[str, str]:
    tokenizer = model.tokenizer
    return {**tokenizer.prompts, **{role: tokenizer.prompt(role) for role in ("query", "document")}}


def _write_card(model: LateInteraction, work: Path, name: str, card: str | None) -> None:
    tokenizer = model.tokenizer
    usage = USAGE.format(
        folder=name,
        dimension=model.dimension,
        similarity=model.similarity,
        query_length=tokenizer.length_of("query"),
        document_length=tokenizer.length_of("document"),
        prompts=note(tokenizer) + list_prompts(_prompts(model), PROMPTS),
    )
    tags = ["sentence-transformers", "multi-vector", "late-interaction", "feature-extraction"]
    pipeline = "sentence-similarity"
    write_card(work, name=name, source=model.source, pipeline=pipeline, tags=tags, body=card, usage=usage)
