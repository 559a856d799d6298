"""Write a cross-encoder as a folder that sentence-transformers and transformers load as it is."""

from __future__ import annotations

import copy
import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from peft import PeftModel

from models.cross_encoder import CrossEncoder
from models.folder import read_json
from models.loading import quiet
from models.lora import merge

TRANSFORMER_MODULE = "sentence_transformers.base.modules.transformer.Transformer"
USAGE = """## Use

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("{folder}")
scores = model.predict([("a query", "a document"), ("a query", "another document")])
ranking = model.rank("a query", ["a document", "another document"])
```

Pairs are cut at {max_length} tokens. Higher scores are better; they are {scale}.
"""


def export_cross_encoder(
    model: CrossEncoder, folder: Path, *, card: str | None = None, adapter_only: bool = False
) -> None:
    """Write weights (safetensors), configuration, tokenizer and model card to `folder`, replacing it in one rename.

    Call it on one rank, inside `engine.full_weights()`: only `model.state_dict()` is read, and `model` stays as it
    is. LoRA is merged into the weights; with `adapter_only` the folder holds the adapter and head alone, and loads
    where the base model does. `card` is Markdown put below the card's header, before the usage.
    """
    folder = folder.absolute()
    state = {name: value.detach().to("cpu", copy=True) for name, value in model.backbone.state_dict().items()}
    if empty := [name for name, value in state.items() if value.numel() == 0]:
        raise AssertionError(f"{empty[0]} is empty: export inside engine.full_weights()")
    work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        with quiet():
            _write_weights(model, state, work, adapter_only=adapter_only)
            tokenizer = copy.deepcopy(model.tokenizer.tokenizer)
            tokenizer.model_max_length = model.tokenizer.max_length
            tokenizer.save_pretrained(work)
        _write_contract(model, work)
        (work / "README.md").write_text(_model_card(model, folder.name, card), encoding="utf-8")
        _replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_weights(model: CrossEncoder, state: dict[str, Any], work: Path, *, adapter_only: bool) -> None:
    backbone = model.backbone
    if not isinstance(backbone, PeftModel):
        backbone.save_pretrained(work, state_dict=state)
    elif adapter_only:
        backbone.save_pretrained(str(work), state_dict=state)
        config = read_json(work / "adapter_config.json")
        _write_json(work / "adapter_config.json", config | {"base_model_name_or_path": _base_name(model)})
    else:
        merge(backbone, state).save_pretrained(work)


def _write_contract(model: CrossEncoder, work: Path) -> None:
    """The activation and the prompts: in config.json for sentence-transformers 4 and 5 and for other servers, in
    modules.json and its companions for 6, which would else put a chat template on a decoder's pairs."""
    activation = f"{type(model.activation).__module__}.{type(model.activation).__qualname__}"
    if config := read_json(work / "config.json"):
        config.pop("sbert_ce_default_activation_function", None)
        _write_json(work / "config.json", config | {"sentence_transformers": {"activation_fn": activation}})
    _write_json(work / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": TRANSFORMER_MODULE}])
    _write_json(
        work / "sentence_bert_config.json",
        {
            "transformer_task": "sequence-classification",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
            "module_output_name": "scores",
        },
    )
    _write_json(
        work / "config_sentence_transformers.json",
        {
            "__version__": {"pytorch": metadata.version("torch"), "transformers": metadata.version("transformers")},
            "model_type": "CrossEncoder",
            "activation_fn": activation,
            "prompts": dict(model.tokenizer.prompts),
            "default_prompt_name": model.tokenizer.default_prompt,
        },
    )


def _model_card(model: CrossEncoder, name: str, card: str | None) -> str:
    base = _base_name(model)
    header = ["---", "library_name: sentence-transformers", "pipeline_tag: text-ranking"]
    header += ["tags:", "- cross-encoder", "- reranker", "- text-ranking", "- plackett"]
    header += [f"base_model: {base}"] if not Path(base).exists() else []
    scale = f"the raw logit through {type(model.activation).__name__}"
    usage = USAGE.format(folder=name, max_length=model.tokenizer.max_length, scale=scale)
    return "\n".join([*header, "---", "", (card or f"# {name}\n").strip(), "", usage])


def _base_name(model: CrossEncoder) -> str:
    """The hub id that training started from, or the absolute path of the folder."""
    path = Path(model.source).expanduser()
    return str(path.absolute()) if path.exists() else model.source


def _replace(work: Path, folder: Path) -> None:
    """`work` becomes `folder`; readers find the old folder, the new one, or for a moment none: never half of one."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
