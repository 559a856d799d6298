"""Write a model of late interaction as a folder that sentence-transformers' MultiVectorEncoder loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from models.export.bi_encoder import write_dense
from models.export.control_tokens import note, own_settings, splits_for_others
from models.export.folder import (
    full_state_dict,
    list_prompts,
    new_folder,
    versions,
    write_backbone,
    write_card,
    write_json,
    write_tokenizer,
)
from models.scale import FILE
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
        write_backbone(model.backbone, work, source=model.source, adapter_only=adapter_only)
        split = splits_for_others(tokenizer)
        write_tokenizer(tokenizer.tokenizer, tokenizer.max_length, work, split_special_tokens=split)
        lengths = {"max_seq_length": tokenizer.max_length, "do_lower_case": False}
        write_json(work / "sentence_bert_config.json", lengths | dict(tokenizer.settings()))
        write_json(work / "modules.json", _write_modules(model, work))
        write_json(work / "config_sentence_transformers.json", _settings(model))
        if model.scale is not None:
            full_state_dict(model.scale)  # raises an error if the weights are sharded
            save_file(model.scale.values(), work / FILE)
        _write_card(model, work, str(folder), card)


def _write_modules(model: LateInteraction, work: Path) -> list[dict[str, Any]]:
    """Write the modules after the transformer, and return the entries of modules.json."""
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
    return [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]


def _prompts(model: LateInteraction) -> dict[str, str]:
    tokenizer = model.tokenizer
    return {**tokenizer.prompts, **{role: tokenizer.prompt(role) for role in ("query", "document")}}


def _settings(model: LateInteraction) -> dict[str, Any]:
    return {
        "model_type": "MultiVectorEncoder",
        "__version__": versions(),
        "prompts": _prompts(model),
        "default_prompt_name": None,
        "similarity_fn_name": model.similarity,
        **own_settings(model.tokenizer),
    }


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
