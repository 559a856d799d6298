"""Shared parts of all exports: a folder replaced in one rename, complete weights, the tokenizer, the model card."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.dropout import dropout_as_loaded
from models.int8_ranges import FILE as RANGES
from models.loading.backbone import quiet
from models.loading.folder import read_json
from models.lora import merge_adapters

LISTED_PROMPTS = 50  # prompts in a model card


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make a temporary folder to write to, which becomes `folder` at the end. After an error the old folder stays."""
    folder = folder.absolute()
    work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        _flush(work)
        _replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Wait until all files in `folder` are on disk, before another file marks the run as finished."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(work: Path, folder: Path) -> None:
    """Rename `work` to `folder`. Readers find the old folder, the new one, or for a moment none, but never half of
    one."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    work.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def full_state_dict(module: nn.Module) -> dict[str, Tensor]:
    """Copy the module's weights to the CPU."""
    state = {name: value.detach().to("cpu", copy=True) for name, value in module.state_dict().items()}
    if empty := [name for name, value in state.items() if value.numel() == 0]:
        raise AssertionError(f"{empty[0]} is empty: export inside engine.full_weights()")
    return state


def write_backbone(
    backbone: PreTrainedModel | PeftModel,
    folder: Path,
    *,
    source: str,
    adapter_only: bool,
    change: Callable[[dict[str, Tensor]], None] | None = None,
) -> None:
    """Write the configuration and the weights in safetensors, with LoRA merged; or only the adapter, with `source` as
    its base. `change` is called with a copy of the weights before.

    Raises ValueError if there is no adapter, or if training started from one, which cannot be the base of another.
    """
    if adapter_only and not isinstance(backbone, PeftModel):
        raise ValueError("adapter_only: this model was trained without LoRA")
    state = full_state_dict(backbone)
    if change is not None:
        change(state)
    with quiet(), dropout_as_loaded(backbone):
        if not isinstance(backbone, PeftModel):
            backbone.save_pretrained(folder, state_dict=state)
        elif adapter_only:
            if (Path(source).expanduser() / "adapter_config.json").exists():
                raise ValueError(
                    f"{source} is an adapter itself and cannot be the base of another one: export it merged"
                )
            backbone.save_pretrained(str(folder), state_dict=state)
            config = read_json(folder / "adapter_config.json")
            write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": source_name(source)})
        else:
            merge_adapters(backbone, state).save_pretrained(folder)


def write_tokenizer(
    tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path, *, split_special_tokens: bool = False
) -> None:
    """Write the tokenizer. `split_special_tokens`: transformers is to read control tokens in its input as text."""
    with quiet():
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.model_max_length = max_length
        tokenizer.split_special_tokens = split_special_tokens
        tokenizer.init_kwargs["split_special_tokens"] = split_special_tokens  # its keys are saved
        tokenizer.save_pretrained(folder)


def write_card(
    folder: Path, *, name: str, source: str, pipeline: str, tags: Sequence[str], body: str | None, usage: str
) -> None:
    """Write README.md: the hub's header, `body` in Markdown, the usage."""
    base = source_name(source)
    header = ["---", "library_name: sentence-transformers", f"pipeline_tag: {pipeline}"]
    header += ["tags:", *(f"- {tag}" for tag in (*tags, "plackett"))]
    header += [] if Path(base).exists() else [f"base_model: {base}"]
    text = "\n".join([*header, "---", "", (body or f"# {name}\n").strip(), "", usage])
    (folder / "README.md").write_text(text, encoding="utf-8")


def list_prompts(prompts: Mapping[str, str], title: str) -> str:
    """Markdown with `title` and the prompts by name; empty if all are empty. Of many the first are listed."""
    if not any(prompts.values()):
        return ""
    first = sorted(prompts.items(), key=lambda item: item[0] not in ("query", "document"))[:LISTED_PROMPTS]
    lines = [f"- {name}: `{text!r}`" for name, text in first]
    if len(prompts) > len(first):
        lines.append(f"- and {len(prompts) - len(first):,} more in config_sentence_transformers.json")
    return "\n".join(["", title, "", *lines, ""])


def copy_card(card: str, *, folder: Path, of: Path, source: str, body: str) -> str:
    """Change the card of a model exported to `of` for its copy in `folder`: with another `body`, and `source` as the
    model that training started from."""
    header, _, rest = card.partition("\n---\n")
    lines = [line for line in header.splitlines() if not line.startswith("base_model: ")]
    usage = rest.partition("\n## Use\n")[2].replace(f'"{of}', f'"{folder}')
    lines += [] if Path(source).expanduser().exists() else [f"base_model: {source}"]
    return "\n".join([*lines, "---", "", body.strip(), "", "## Use"]) + "\n" + usage


def card_on_hub(card: str, folder: Path, repo_id: str) -> str:
    """Change the card of `folder` for the hub: the repository's name replaces the folder."""
    template = f'"$(hf download --quiet {repo_id} chat_template.jinja)"'
    card = card.replace(f'"{folder}/chat_template.jinja"', template)
    ranges = f'hf_hub_download("{repo_id}", "{RANGES}")'
    card = card.replace(f'np.load("{folder}/{RANGES}")', f"np.load({ranges})")
    card = card.replace(
        "import numpy as np\nfrom sent", "import numpy as np\nfrom huggingface_hub import hf_hub_download\nfrom sent"
    )
    return card.replace(f'"{folder}"', f'"{repo_id}"').replace(f"# {folder}\n", f"# {repo_id}\n")


def display_name(source: str) -> str:
    """The hub id that training started from, or the last two parts of a folder's path: a card may become public."""
    path = Path(source).expanduser()
    return f"{'/'.join(path.absolute().parts[-2:])} (a local folder)" if path.exists() else source


def source_name(source: str) -> str:
    """The hub id that training started from, or the absolute path of the folder."""
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source


def versions() -> dict[str, str]:
    return {"pytorch": metadata.version("torch"), "transformers": metadata.version("transformers")}


def write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
