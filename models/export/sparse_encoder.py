"""Write a sparse encoder as a folder that sentence-transformers' SparseEncoder can load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from models.export.control_tokens import note, splits_for_others
from models.export.folder import full_state_dict, list_prompts, new_folder, write_card, write_json, write_tokenizer
from models.export.texts import (
    MODULE,
    PROMPTS,
    ROUTER,
    all_prompts,
    write_linear,
    write_model_files,
    write_routes,
    write_transformer,
)
from models.sparse.modules import LARGEST, LARGEST_OF, TIED

if TYPE_CHECKING:
    from models.sparse.sparse_encoder import SparseEncoder

SPARSE_MODULE = "sentence_transformers.sparse_encoder.models."  # the name that old and new releases know
USAGE = """## Use

```python
from sentence_transformers import SparseEncoder

model = SparseEncoder("{folder}")
queries = model.encode_query(["a query"])
documents = model.encode_document(["a document", "another document"])
similarities = model.similarity(queries, documents)
```

Weights of the {dimension:,} tokens of the vocabulary, most of them 0, compared by their dot product. Texts are cut at
{max_length} tokens.{queries}{terms}
{prompts}"""
FREE = " Queries run no transformer: each token has a weight of its own."
TERMS = (
    " plackett keeps {query} weights of a query and {document} of a document, the largest; give sentence-transformers "
    "`max_active_dims`: its files have one number for both."
)


def export_sparse_encoder(
    model: SparseEncoder, folder: Path, *, card: str | None = None, adapter_only: bool = False
) -> None:
    """Write weights (safetensors), modules, prompts, tokenizer and model card to `folder`, replacing it in one rename.

    Call it on one rank, inside `engine.full_weights()`: only `model.state_dict()` is read, and `model` does not
    change. LoRA is merged into the weights. With `adapter_only` the folder holds the adapter and the other weights, and
    can be loaded wherever the base model can. The model's temperature and bias are kept for further training. `card` is
    Markdown that comes after the card's header, before the usage.
    """
    with new_folder(folder) as work:
        prefix = "" if model.token_weights is None else "document_"
        modules = _write_modules(model, work, prefix=prefix, adapter_only=adapter_only)
        if model.token_weights is not None:
            write_routes(work, {"query": [_write_token_weights(model, work)], "document": modules})
            modules = [ROUTER]
        write_model_files(model, work, modules, **_settings(model))
        _write_card(model, work, str(folder), card)


def _write_modules(model: SparseEncoder, work: Path, *, prefix: str, adapter_only: bool) -> list[tuple[str, str]]:
    """Write the modules of the documents' route. Returns (path, type) in order. With `prefix` all modules are in
    subfolders."""
    tower, tokenizer = model.tower, model.tokenizer
    own = tower.has_own_head
    transformer = f"{prefix}0_Transformer" if prefix else ""
    modules = [(transformer, f"{SPARSE_MODULE}MLMTransformer" if own else f"{MODULE}Transformer")]
    target = work / transformer
    write_transformer(tower.backbone, tokenizer, target, source=tower.source, adapter_only=adapter_only)
    if not own:
        modules.append((f"{prefix}1_Dense", f"{MODULE}Dense"))
        head = {f"linear.{name}": value for name, value in full_state_dict(tower.head).items()}
        write_linear(head, work / modules[-1][0], "torch.nn.modules.linear.Identity", reads="token_embeddings")
    modules.append((f"{prefix}{len(modules)}_SpladePooling", f"{SPARSE_MODULE}SpladePooling"))
    pooling = {
        "pooling_strategy": "max",
        "activation_function": "log1p_relu" if tower.log_twice else "relu",
        "word_embedding_dimension": tower.dimension,
    }
    write_json(work / modules[-1][0] / "config.json", pooling)
    return modules


def _write_token_weights(model: SparseEncoder, work: Path) -> tuple[str, str]:
    """Write the weights of the tokens of queries. Sentence-transformers puts no special tokens beside them."""
    assert model.token_weights is not None
    name, tokenizer = "query_0_SparseStaticEmbedding", model.tokenizer
    folder = work / name
    folder.mkdir()
    added = tokenizer.tokenizer.num_special_tokens_to_add()
    split = splits_for_others(tokenizer)
    write_tokenizer(tokenizer.tokenizer, tokenizer.max_length - added, folder, split_special_tokens=split)
    save_file(full_state_dict(model.token_weights), folder / "model.safetensors")
    write_json(folder / "config.json", {"frozen": not model.token_weights.weight.requires_grad})
    return name, f"{SPARSE_MODULE}SparseStaticEmbedding"


def _settings(model: SparseEncoder) -> dict[str, Any]:
    query, document = model.terms["query"], model.terms["document"]
    terms: dict[str, Any] = {LARGEST: document} if query == document else {}
    if query != document:
        terms = {LARGEST_OF[role]: number or 0 for role, number in model.terms.items()}
    return {
        "model_type": "SparseEncoder",
        **{name: number for name, number in terms.items() if number is not None},
        **({TIED: True} if _is_tied(model) else {}),
    }


def _is_tied(model: SparseEncoder) -> bool:
    """Whether a head that is written after the transformer has the weights of its word embeddings."""
    weight = model.tower.head.weight
    return not model.tower.has_own_head and any(weight is part for part in model.tower.backbone.parameters())


def _write_card(model: SparseEncoder, work: Path, name: str, card: str | None) -> None:
    differ = model.terms["query"] != model.terms["document"]
    terms = {role: "all" if number is None else f"{number:,}" for role, number in model.terms.items()}
    usage = USAGE.format(
        folder=name,
        dimension=model.dimension,
        max_length=model.tokenizer.max_length,
        queries="" if model.token_weights is None else FREE,
        terms=TERMS.format(**terms) if differ else "",
        prompts=note(model.tokenizer) + list_prompts(all_prompts(model.tokenizer), PROMPTS),
    )
    write_card(
        work,
        name=name,
        source=model.source,
        pipeline="feature-extraction",
        tags=["sentence-transformers", "sparse-encoder", "sparse", "splade"],
        body=card,
        usage=usage,
    )
