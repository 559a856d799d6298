"""Write a cross-encoder as a folder that sentence-transformers and transformers can load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from models.export.control_tokens import note, own_settings, splits_for_others
from models.export.folder import (
    list_prompts,
    new_folder,
    versions,
    write_backbone,
    write_card,
    write_json,
    write_tokenizer,
)
from models.export.serving import serve_cross_encoder
from models.loading.folder import DOCUMENT_PROMPT, read_json

if TYPE_CHECKING:
    from models.cross_encoder import CrossEncoder
    from models.tokenization import PairTokenizer

TRANSFORMER_MODULE = "sentence_transformers.base.modules.transformer.Transformer"
USAGE = """## Use

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("{folder}")
scores = model.predict([("a query", "a document"), ("a query", "another document")])
ranking = model.rank("a query", ["a document", "another document"])
```

Pairs are cut at {max_length} tokens. Higher scores are better; they are {scale}.
{prompts}"""


def export_cross_encoder(
    model: CrossEncoder, folder: Path, *, card: str | None = None, adapter_only: bool = False
) -> None:
    """Write weights (safetensors), configuration, tokenizer and model card to `folder`, replacing it in one rename.

    Call it on one rank, inside `engine.full_weights()`: only `model.state_dict()` is read, and `model` does not
    change. LoRA is merged into the weights. With `adapter_only` the folder holds only the adapter and the head, and can
    be loaded wherever the base model can. `card` is Markdown that comes after the card's header, before the usage.
    """
    with new_folder(folder) as work:
        write_backbone(model.backbone, work, source=model.source, adapter_only=adapter_only, change=model.fold_scale)
        tokenizer = model.tokenizer
        split = splits_for_others(tokenizer)
        write_tokenizer(tokenizer.tokenizer, tokenizer.max_length, work, split_special_tokens=split)
        _write_settings(model, work)
        scale = f"the raw logit through {type(model.activation).__name__}"
        write_card(
            work,
            name=str(folder),
            source=model.source,
            pipeline="text-ranking",
            tags=["cross-encoder", "reranker", "text-ranking"],
            body=card,
            usage=USAGE.format(
                folder=folder,
                max_length=tokenizer.max_length,
                scale=scale,
                prompts=note(tokenizer) + _prompts(tokenizer),
            )
            + serve_cross_encoder(model, str(folder)),
        )


def _prompts(tokenizer: PairTokenizer) -> str:
    """Markdown about the prompts, which other libraries than sentence-transformers 6 do not read."""
    default, document = tokenizer.default_prompt, tokenizer.document_prompt
    before = f", which is {default}" if default in tokenizer.prompts else ""
    title = f"Prompts before the query: sentence-transformers 6 puts the default one{before}, other releases and "
    listed = list_prompts(tokenizer.prompts, f"{title}servers none. Put them there yourself:")
    if not document:
        return listed
    return f"{listed}\nIt was trained with `{document!r}` before every document, which plackett alone puts there.\n"


def _write_settings(model: CrossEncoder, work: Path) -> None:
    """Write the activation and the prompts: to config.json for sentence-transformers 4 and 5 and for servers, to
    modules.json and the files beside it for version 6, which would otherwise use a chat template for decoders."""
    activation = f"{type(model.activation).__module__}.{type(model.activation).__qualname__}"
    if config := read_json(work / "config.json"):
        config.pop("sbert_ce_default_activation_function", None)
        write_json(work / "config.json", config | {"sentence_transformers": {"activation_fn": activation}})
    write_json(work / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": TRANSFORMER_MODULE}])
    write_json(
        work / "sentence_bert_config.json",
        {
            "transformer_task": "sequence-classification",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
            "module_output_name": "scores",
        },
    )
    write_json(
        work / "config_sentence_transformers.json",
        {
            "__version__": versions(),
            "model_type": "CrossEncoder",
            "activation_fn": activation,
            "prompts": dict(model.tokenizer.prompts),
            "default_prompt_name": model.tokenizer.default_prompt,
            **({DOCUMENT_PROMPT: document} if (document := model.tokenizer.document_prompt) else {}),
            **own_settings(model.tokenizer),
        },
    )
