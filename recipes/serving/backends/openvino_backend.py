"""OpenVINO, by the same ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from recipes.serving.backends.onnx_backend import replay_files
from recipes.serving.contract import Export, Replay, Unavailable


def replay(export: Export) -> Mapping[str, Replay]:
    """Replay every ONNX file of the export on the CPU."""
    try:
        import openvino
    except ImportError:
        raise Unavailable("not installed: pip install openvino") from None

    def session(path: str) -> Callable[[dict[str, Any]], Any]:
        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        names = {value.get_any_name() for value in compiled.inputs}
        return lambda inputs: compiled({name: value for name, value in inputs.items() if name in names})[0]

    return replay_files(export, session)
