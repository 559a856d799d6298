"""The ONNX files of an export, in the layout that sentence-transformers reads: onnx/model.onnx beside the weights."""

from __future__ import annotations

import platform
from pathlib import Path

from models.loading.folder import ModelFolder

FOLDER = "onnx"
FILE = "model.onnx"
ARCHITECTURES = {"x86_64": "avx2", "AMD64": "avx2", "aarch64": "arm64", "arm64": "arm64"}


def int8_file() -> str:
    """The name of the int8 file for this machine's processor, as sentence-transformers calls it."""
    return f"model_qint8_{ARCHITECTURES.get(platform.machine(), 'avx2')}.onnx"


def outdated_files(backbone: Path) -> list[Path]:
    """The files that were made of an earlier model.onnx: those of 8 bits, and weights that lay beside."""
    names = [f"model_qint8_{architecture}.onnx" for architecture in sorted({*ARCHITECTURES.values()})]
    files = [onnx_file(backbone, file) for name in names for file in (name, f"{name}_data", f"{name}.data")]
    return [file for file in files if file.is_file()]


def onnx_files(folder: ModelFolder) -> list[str]:
    """The names of the ONNX files that every transformer of the export has: model.onnx, then those of fewer bits."""
    found = [{file.name for file in (route.backbone / FOLDER).glob("*.onnx")} for route in folder.routes().values()]
    return sorted(set.intersection(*found), key=lambda name: (name != FILE, name))


def onnx_file(backbone: Path, name: str) -> Path:
    return backbone / FOLDER / name
