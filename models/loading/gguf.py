"""Read GGUF files, the quantised weights of llama.cpp: each is converted once to a folder of transformers."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from huggingface_hub import cached_assets_path, constants
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from models.loading.backbone import quiet
from models.loading.folder import WEIGHTS, first_line, read_json, sha256

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"
MAGIC = b"GGUF"
ABOUT = "gguf.json"  # in the converted folder: what the file held
GPT_2 = ("", "default", "gpt-2")  # names of GPT-2's rule of splitting text
DENSE = ("F64", "F32", "F16", "BF16")  # types of tensors that are not quantised

_announced: set[Path] = set()  # the files whose conversion was spoken of


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that `path` is, or that the folder `path` holds instead of other weights; None if there is none.

    Raises ValueError if the folder holds several.
    """
    if path.is_file():
        return path if path.suffix.lower() == SUFFIX else None
    if any((path / name).is_file() for name in WEIGHTS):
        return None
    files = sorted(file for file in path.glob("*") if file.suffix.lower() == SUFFIX and file.is_file())
    if len(files) > 1:
        raise ValueError(f"model {path} holds {len(files)} GGUF files: give the path of one, as {files[0]}")
    return files[0] if files else None


def folder_of_gguf(file: Path) -> Path:
    """The folder with the model of a GGUF file, its weights dequantised to float32. It is made once and kept in
    huggingface_hub's cache of assets. What is changed by that is said once in a process.

    Raises ValueError, in one line, if the file is no language model that transformers can read.
    """
    folder = converted(file)
    if file not in _announced and logger.isEnabledFor(logging.WARNING):  # not while a part of the code is quiet
        _announced.add(file)
        _announce(file, folder)
    return folder


@lru_cache
def converted(file: Path) -> Path:
    """The folder of the conversion, which is made if it is not there."""
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"model {file} is no GGUF file: copy it again")
    try:
        folder = cached_assets_path("plackett", namespace="gguf", subfolder=sha256(file)[:16]) / "model"
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                _convert(file.absolute(), folder)
    except OSError as error:
        raise ValueError(
            f"model {file}: {constants.HF_ASSETS_CACHE} cannot be written ({error.strerror or first_line(error)}): "
            "name another folder by the environment variable HF_ASSETS_CACHE"
        ) from error
    return folder


def _announce(file: Path, folder: Path) -> None:
    about = read_json(folder / ABOUT)
    if about["quantised"]:
        logger.warning(
            "model %s: its weights are those of the file, %s, dequantised to float32; they are not the published ones",
            *(file, ", ".join(about["quantised"])),
        )
    if about["unknown_split"]:
        logger.warning(
            "model %s: its tokenizer splits text by the rule %r, which is not known: it is read as that of GPT-2",
            *(file, about["unknown_split"]),
        )


def _convert(file: Path, folder: Path) -> None:
    """Write `folder` in one rename."""
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"model {file} is a GGUF file, which is read by the package gguf: pip install gguf")
    from gguf import GGUFReader

    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, quiet():
        work = Path(scratch) / folder.name
        try:
            reader = GGUFReader(file)
        except Exception as error:  # the package raises many kinds
            raise ValueError(f"model {file} is cut or broken ({first_line(error)}): copy it again") from error
        _check_is_whole(file, reader)
        try:
            rule = _text(reader.fields, "tokenizer.ggml.pre")
            model, tokenizer = _dense_model(file), _tokenizer(file, rule)
        except Exception as error:  # the package and transformers raise many kinds at a file that they do not know
            raise ValueError(f"model {file}: transformers cannot read this GGUF file ({first_line(error)})") from error
        try:
            model.save_pretrained(work)
        except SafetensorError as error:
            raise ValueError(
                f"model {file}: {constants.HF_ASSETS_CACHE} cannot be written ({first_line(error)}): free space there, "
                "or name another folder by the environment variable HF_ASSETS_CACHE"
            ) from error
        tokenizer.save_pretrained(work)
        unknown = rule not in GPT_2 and _splits_like_gpt_2(work)
        quantised = sorted({tensor.tensor_type.name for tensor in reader.tensors} - {*DENSE})
        (work / ABOUT).write_text(json.dumps({"quantised": quantised, "unknown_split": rule if unknown else None}))
        shutil.move(work, folder)


def _check_is_whole(file: Path, reader: Any) -> None:
    """Raise ValueError if the file is one part of a model."""
    count = reader.fields.get("split.count")
    if count is not None and int(count.contents()) > 1:
        raise ValueError(
            f"model {file} is one of {int(count.contents())} parts: join them first (llama-gguf-split --merge THIS NEW)"
        )


def _dense_model(file: Path) -> PreTrainedModel:
    """The model of the file with plain weights in float32. Raises ValueError if the file lacks some of them, which
    transformers would draw at random."""
    # Releases with this class may keep the weights in their blocks, which cannot be trained.
    kind = getattr(transformers, "GgufConfig", None)
    options = {"quantization_config": kind(dequantize=True)} if kind else {}
    with torch.random.fork_rng(devices=[]):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True, **options
        )
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"it lacks {len(missing)} tensors of the model, as {missing[0]}: copy or convert it again")
    return model


def _tokenizer(file: Path, rule: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the file, which splits text by the `rule` before the merges."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if rule == "smollm":  # transformers 5.23 splits as GPT-2 does
        parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return tokenizer


def _splits_like_gpt_2(folder: Path) -> bool:
    backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    return isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)


def _text(fields: Any, name: str) -> str:
    return fields[name].contents() if name in fields else ""
