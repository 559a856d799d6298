"""Write the transformers of an export as ONNX files, which CPU servers and sentence-transformers' ONNX backend read."""

from __future__ import annotations

import inspect
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from models.loading.backbone import embedding_class, quiet
from models.loading.folder import ModelFolder, first_line
from models.prompts.template_folder import has_template
from recipes.serving.contract import KINDS
from recipes.serving.onnx_files import FILE, int8_file, onnx_file, outdated_files

EXAMPLE = ("a query of some words", "a longer text, which another row has")
LARGEST_FILE = 2**31 - 2**27  # bytes of weights in the file itself; protobuf ends at 2 GiB
NAMES = ("input_ids", "attention_mask", "token_type_ids")


class Output(nn.Module):
    """One output of an encoder or a classifier: "last_hidden_state" or "logits"."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        result: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)[self.output]
        return result


class LastLogits(nn.Module):
    """The language model of a reranker: logits [rows, 1, vocabulary] of the last token. Padding is on the left."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.output = "logits"

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        positions = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits
        return logits


def check_onnx_packages() -> None:
    """Raise ValueError if a package of the `onnx` extra is missing."""
    missing = []
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise ValueError(f"--onnx needs {', '.join(missing)}: pip install -c constraints.txt -e '.[onnx]'")


def check_exports_onnx(folder: Path) -> None:
    """Raise ValueError if an ONNX file cannot hold the model of `folder`."""
    description = ModelFolder.read(folder)
    what = "" if description.has_transformer else "has no transformer"
    if description.kind not in KINDS:
        what = f"is a {description.kind}"
    if what:
        raise ValueError(
            f"model {folder} {what}, and an ONNX file here holds the transformer of an embedding model or reranker: "
            "sentence-transformers and plackett read the folder as it is"
        )


def write_onnx(folder: Path, target: Path) -> list[Path]:
    """Write model.onnx of every transformer of the export in `folder` to the same place below `target`. Axes of rows
    and tokens are dynamic. Files of 8 bits that were made of an older one are removed. Returns the files.

    Raises ValueError, in one line, if the architecture cannot be exported.
    """
    description, files = ModelFolder.read(folder), []
    for route in description.routes().values():
        if (route.backbone / "adapter_config.json").is_file():
            raise ValueError(f"model {folder} is an adapter alone: export it merged, without adapter_only=true")
        place = onnx_file(target / route.backbone.relative_to(folder), FILE)
        with _new_file(place) as work:
            _export(_wrapped(description, route), route.backbone, work, folder)
        for outdated in outdated_files(place.parent.parent):
            outdated.unlink()
        files.append(place)
    return files


def _wrapped(description: ModelFolder, route: ModelFolder) -> Any:
    """The module that is exported, with the name of its `output`."""
    config: Any = AutoConfig.from_pretrained(route.backbone)
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    with quiet():
        if description.kind != "CrossEncoder":
            model = embedding_class(config).from_pretrained(route.backbone, **options)
            return Output(model, "last_hidden_state").eval()
        if has_template(description):
            return LastLogits(AutoModelForCausalLM.from_pretrained(route.backbone, **options)).eval()
        classifier = AutoModelForSequenceClassification.from_pretrained(route.backbone, **options)
        return Output(classifier, "logits").eval()


def _example(backbone: Path, module: Any) -> dict[str, Tensor]:
    """Two rows of different length, by which the model is traced."""
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    rows = dict(tokenizer(list(EXAMPLE), padding=True, return_tensors="pt"))
    read = [set(inspect.signature(forward).parameters) for forward in (module.forward, module.model.forward)]
    return {name: rows[name] for name in NAMES if name in rows and all(name in names for names in read)}


@torch.no_grad()
def _export(module: Any, backbone: Path, file: Path, folder: Path) -> None:
    example = _example(backbone, module)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    size = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    try:
        with quiet(), _silent():
            torch.onnx.export(
                module,
                kwargs=example,
                f=str(file),
                dynamo=True,
                dynamic_shapes=dict.fromkeys(example, axes),
                input_names=list(example),
                output_names=[module.output],
                external_data=size > LARGEST_FILE,
                verbose=False,
                optimize=True,
            )
            _name_weights_beside(file)
    except Exception as error:  # the exporter raises errors of many kinds
        kind = module.model.config.model_type
        raise ValueError(f"model {folder}: torch.onnx cannot export {kind}: {first_line(error)[:200]}") from error


@contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _new_file(place: Path) -> Iterator[Path]:
    """A file in a temporary folder beside `place`, moved there at the end with the file of its weights, if any."""
    work = place.parent / f".{os.getpid()}.tmp"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work / place.name
        for file in sorted(work.iterdir(), key=lambda file: file.name == place.name):  # the weights first
            file.replace(place.parent / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _name_weights_beside(file: Path) -> None:
    """Give weights that lie in a file of their own the name that Optimum looks for: model.onnx_data."""
    import onnx

    beside = file.with_name(f"{file.name}.data")
    if not beside.exists():
        return
    name = f"{file.name}_data"
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    beside.rename(file.with_name(name))
    onnx.save(model, file)


def write_int8(files: list[Path]) -> list[Path]:
    """Quantise the weights of each model.onnx to int8, dynamically (activations at run time). Returns the new files.

    Each output channel has its own scale: with one for a whole matrix, embeddings of MiniLM fell to a cosine of 0.86
    with those of float32, else 0.98. On x86 they have 7 bits: AVX2 without VNNI
    saturates sums of 8-bit products.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    written = []
    for file in files:
        place = file.with_name(int8_file())
        with quiet(), _silent(), _new_file(place) as work:
            large = file.with_name(f"{file.name}_data").exists()
            quantize_dynamic(
                file,
                work,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range="avx2" in place.name,
                use_external_data_format=large,
            )
        written.append(place)
    return written
