"""Add to an exported model what servers read: golden texts, ONNX files, a sequence classifier."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from inference.golden import FILE, Golden, make_golden, read_golden, write_golden
from models.export.folder import new_folder
from models.loading.embedder import load_embedder
from models.loading.kind import kind_of
from models.loading.reranker import load_reranker
from models.loading.resolve import resolve
from recipes.serving.classifier_twin import check_is_llm_reranker, classifier_difference, write_classifier
from recipes.serving.onnx_export import check_exports_onnx, check_onnx_packages, write_int8, write_onnx
from recipes.serving.verify import TOLERANCE, Finding, verify


@dataclass(frozen=True)
class Written:
    """What was written, in lines, and how it compares with the golden values."""

    lines: list[str]
    findings: list[Finding]
    difference: float | None = None  # of the sequence classifier

    @property
    def is_right(self) -> bool:
        """Whether nothing differs by more than the tolerance, weights of fewer bits aside."""
        close = self.difference is None or self.difference <= TOLERANCE
        return close and all(finding.status in ("equal", "told") for finding in self.findings)


def add_golden(folder: Path) -> Path:
    """Write golden.json by the model of the folder as it is now. Returns the file."""
    write_golden(folder, _golden_now(folder))
    return folder / FILE


def _golden_now(folder: Path) -> Golden:
    path = str(folder)
    model: Any = load_reranker(path) if kind_of(path) == "reranker" else load_embedder(path)
    return make_golden(model, torch.device("cpu"))


def export_onnx(name_or_path: str, output: Path | None, *, int8: bool) -> Written:
    """Write onnx/model.onnx, and with `int8` a file of 8-bit weights, into the export or into `output`, a copy of it.
    They are compared with the golden values.

    Raises ValueError or FileNotFoundError, in one line, if the model or the output does not fit, before anything is
    written.
    """
    check_onnx_packages()
    source = resolve(name_or_path)
    check_exports_onnx(source)
    target = _target(name_or_path, source, output)
    if target == source:
        lines, files = _add_onnx(source, int8)
    else:
        with new_folder(target) as work:
            shutil.copytree(source, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("onnx", "openvino", ".*"))
            lines, files = _add_onnx(work, int8)
    lines += [f"{target / file}: {(target / file).stat().st_size / 1e6:,.1f} MB" for file in files]
    return Written(lines, verify(target, ["onnx"]))


def _add_onnx(folder: Path, int8: bool) -> tuple[list[str], list[Path]]:
    """Write the ONNX files, and golden texts if there are none. Returns lines, and the files below `folder`."""
    lines = []
    if not (folder / FILE).is_file():
        add_golden(folder)
        lines.append(f"{FILE} was missing: written from the model as it is now")
    files = write_onnx(folder, folder)
    files += write_int8(files) if int8 else []
    return lines, [file.relative_to(folder) for file in files]


def _target(name_or_path: str, source: Path, output: Path | None) -> Path:
    if output is None:
        if source != Path(name_or_path).expanduser():
            raise ValueError(f"model {name_or_path} is not a folder of yours: give --output DIR, a copy to write to")
        return source
    if source.absolute() in output.absolute().parents:
        raise ValueError(f"--output {output} is inside the model: give a folder elsewhere")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"--output {output} exists already: give a new folder")
    return output


def export_classifier(name_or_path: str, output: Path | None) -> Written:
    """Write the sequence classifier of an LLM reranker to `output` (default: beside it, MODEL-classifier), and compare
    its scores with the golden ones.

    Raises ValueError or FileNotFoundError, in one line, as `export_onnx`.
    """
    source = resolve(name_or_path)
    check_is_llm_reranker(source)
    if output is None and not Path(name_or_path).expanduser().is_dir():
        raise ValueError(f"model {name_or_path} is not a folder of yours: give --output DIR")
    own = source.absolute()
    target = _target(name_or_path, source, output or own.with_name(f"{own.name}-classifier"))
    golden = read_golden(source) if (source / FILE).is_file() else _golden_now(source)
    write_classifier(source, target)
    difference = classifier_difference(target, golden, source)
    line = f"{target}: a sequence classifier; largest difference from the golden scores {difference:.1e}"
    if math.isnan(difference):
        line = f"{target}: a sequence classifier; not compared, its prompt is known to differ in every golden text"
    return Written([line], [], difference)
