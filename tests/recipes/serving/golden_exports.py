"""Tiny exports with golden texts, which the tests of serving replay and break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from inference.golden import make_golden, write_golden
from models.bi_encoder import BiEncoderConfig
from models.cross_encoder import CrossEncoderConfig
from models.llm_reranker import LLMRerankerConfig
from models.lora import LoRAConfig

PROMPTS = {"query": "what is the ", "document": "value: "}


def export(options: Any, folder: Path) -> Path:
    """Export a model as if trained, with golden texts."""
    model = options.build(seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    golden = make_golden(model, torch.device("cpu"))
    model.export(folder)
    write_golden(folder, golden)
    return folder


def write_exports(folder: Path, tiny_models: Any) -> dict[str, Path]:
    """Folders of every kind of export, by name."""
    bert = str(tiny_models.write_tiny_bert(folder / "bert"))
    reranker = str(tiny_models.write_tiny_bert(folder / "reranker", reranker=True, seed=1))
    causal = str(tiny_models.write_tiny_causal(folder / "causal"))
    decoder = str(tiny_models.write_tiny_decoder(folder / "decoder"))
    bos = tiny_models.write_tiny_decoder(folder / "bos", seed=2)
    change_json(bos / "tokenizer.json", begin_with_cls)
    options = {
        "bi_encoder": BiEncoderConfig(bert, prompts=PROMPTS, projection=16, max_length=64),
        "lora": BiEncoderConfig(bert, lora=LoRAConfig(r=4)),
        "towers": BiEncoderConfig(bert, separate_towers=True, similarity="dot"),
        "decoder": BiEncoderConfig(decoder),
        "bos": BiEncoderConfig(str(bos)),
        "cross_encoder": CrossEncoderConfig(reranker),
        "llm": LLMRerankerConfig(causal, template="qwen3", max_length=256),
    }
    return {name: export(one, folder / "exports" / name) for name, one in options.items()}


def begin_with_cls(content: Any) -> Any:
    """Let a tokenizer.json put [CLS] before a text, as decoders do with BOS, and nothing after it."""
    token = next(token for token in content["added_tokens"] if token["content"] == "[CLS]")
    piece, text = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    special = {"[CLS]": {"id": "[CLS]", "ids": [token["id"]], "tokens": ["[CLS]"]}}
    parts = {"single": [piece, text], "pair": [piece, text], "special_tokens": special}
    return {**content, "post_processor": {"type": "TemplateProcessing", **parts}}


def copied(source: Path, folder: Path) -> Path:
    """A copy of an export, to be broken."""
    return Path(shutil.copytree(source, folder))


def change_json(file: Path, change: Callable[[Any], Any]) -> None:
    """Replace the content of a JSON file by what `change` returns, or by what it has changed in place."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content = change(content) or content
    file.write_text(json.dumps(content), encoding="utf-8")


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of model.safetensors in place."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
