"""ONNX Runtime, by the files that `launch/export.py --onnx` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from models.loading.folder import ModelFolder
from recipes.serving.backends.plain import Forward, embed_texts, score_pairs, score_prompts
from recipes.serving.contract import Export, Replay, Unavailable
from recipes.serving.onnx_files import FILE, onnx_file, onnx_files

FEWER_BITS = "weights of 8 bits: the difference is told, and is no fault"


def replay(export: Export) -> Mapping[str, Replay]:
    """Replay every ONNX file of the export on the CPU."""
    try:
        import onnxruntime
    except ImportError:
        raise Unavailable("not installed: pip install onnxruntime") from None

    def session(path: str) -> Callable[[dict[str, Any]], Any]:
        opened = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = {value.name for value in opened.get_inputs()}
        return lambda inputs: opened.run(None, {name: value for name, value in inputs.items() if name in names})[0]

    return replay_files(export, session)


def replay_files(export: Export, session: Callable[[str], Callable[[dict[str, Any]], Any]]) -> Mapping[str, Replay]:
    """Replay every ONNX file by a runtime: `session(path)` runs numpy arrays by name, and gives the first output."""
    files = onnx_files(export.folder)
    if not files:
        raise Unavailable(f"no onnx/{FILE}: `python launch/export.py {export.path} --onnx` writes it")
    found = {}
    for name in files:
        result = _replay(export, lambda route, n=name: _forward(session, route, n))  # type: ignore[misc]
        informs = "" if name == FILE else FEWER_BITS
        found["" if name == FILE else name] = Replay(result.values, result.through, result.limits, informs)
    return found


def _replay(export: Export, forward_of: Callable[[ModelFolder], Forward]) -> Replay:
    if export.golden.layout == "texts":
        return embed_texts(export, forward_of)
    run = forward_of(export.folder)
    return score_prompts(export, run) if export.is_prompted else score_pairs(export, run)


def _forward(session: Callable[[str], Callable[[dict[str, Any]], Any]], route: ModelFolder, name: str) -> Forward:
    run = session(str(onnx_file(route.backbone, name)))

    def forward(features: Mapping[str, Tensor]) -> Tensor:
        return torch.from_numpy(run({key: value.numpy() for key, value in features.items()})).float()

    return forward
