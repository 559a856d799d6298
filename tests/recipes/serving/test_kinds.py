"""Exports of all kinds of embedding models: verified, and refused by what does not read them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference import golden
from inference.golden import make_golden, read_golden, write_golden
from launch.rerank import main as rerank
from launch.verify import main as verify_command
from models.late_interaction.options import LateInteractionConfig
from models.sparse.sparse_encoder import SparseEncoderConfig
from models.static.embedder import StaticEmbedderConfig
from recipes.serving import verify as verification
from recipes.serving.causes import UNKNOWN, Detective
from recipes.serving.contract import Export
from recipes.serving.export import export_onnx
from recipes.serving.verify import verify

KINDS = ("late_interaction", "sparse_encoder", "static_embedder")


@pytest.fixture(scope="module")
def exports(tiny_bert_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, name = tmp_path_factory.mktemp("kinds"), str(tiny_bert_dir)
    options = (
        LateInteractionConfig(name, dimension=16, document_length=40, query_length=12),
        SparseEncoderConfig(name),
        StaticEmbedderConfig(name, start="random", dimension=12),
    )
    for kind, own in zip(KINDS, options, strict=True):
        model = own.build(seed=1).eval()
        model.export(root / kind)
        write_golden(root / kind, make_golden(model, torch.device("cpu")))
    return {kind: root / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_gives_what_it_gave_in_training(kind: str, exports: dict[str, Path], tmp_path: Path) -> None:
    findings = verify(exports[kind], ["plackett", "sentence-transformers", "transformers"])
    assert [finding.status for finding in findings] == ["equal", "equal", "not checked"]
    assert all(finding.difference < 1e-5 and finding.order == 1 for finding in findings[:2])
    assert all(finding.rows == 11 for finding in findings[:2])
    shutil.copytree(exports[kind], tmp_path / "changed")
    for file in (tmp_path / "changed").rglob("*.safetensors"):
        save_file({name: value.flip(0).contiguous() for name, value in load_file(file).items()}, file)
    changed = verify(tmp_path / "changed", ["plackett", "sentence-transformers"])
    assert [finding.status for finding in changed] == ["differs", "differs"]
    assert all("model.safetensors" in " ".join(finding.causes) for finding in changed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_difference_of_another_cause_is_said_to_be_unknown(kind: str, exports: dict[str, Path]) -> None:
    detective = Detective.of(Export(exports[kind], read_golden(exports[kind])), 1e-4)
    expected = detective.export.golden.values
    with torch.no_grad():
        assert detective.causes(expected + 9, expected, None, torch.arange(len(expected))) == [UNKNOWN]


@pytest.mark.parametrize(("kept", "terms"), [(256, (3, 9)), (256, (0, 9)), (8, (3, 9))])
def test_limits_that_differ_by_role_are_named(
    kept: int,
    terms: tuple[int, int],
    tiny_bert_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The weights of the first 8 tokens are 0: if golden.json holds no others, the similarities alone differ."""
    for module in (golden, verification):
        monkeypatch.setattr(module, "KEPT_VALUES", kept)
    model = SparseEncoderConfig(str(tiny_bert_dir), query_terms=terms[0], document_terms=terms[1]).build(1).eval()
    with torch.no_grad():
        model.tower.head.weight[:8] = 0
    model.export(tmp_path / "model")
    write_golden(tmp_path / "model", make_golden(model, torch.device("cpu")))
    with pytest.raises(SystemExit, match="1"):
        verify_command([str(tmp_path / "model"), "--backends", "plackett", "sentence-transformers"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["plackett", "equal"], ["sentence-transformers", "differs"]]
    assert lines[3].strip() == (
        f"limits: model.query_terms={terms[0]} and model.document_terms={terms[1]} are not kept: "
        "sentence-transformers has one max_active_dims for both roles"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_onnx_file_holds_it(kind: str, exports: dict[str, Path], tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    with pytest.raises(ValueError, match=rf"{exports[kind]} (has no transformer|is a \w+Encoder), and an ONNX file"):
        export_onnx(str(exports[kind]), tmp_path / "out", int8=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_no_reranker(kind: str, exports: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=rf"model={kind}"):
        rerank([str(exports[kind]), "--query", "a list", "a document"])


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_is_named(kind: str, exports: dict[str, Path]) -> None:
    from models.bi_encoder import BiEncoderConfig

    with pytest.raises(ValueError, match=rf": choose model={kind}$"):
        BiEncoderConfig(str(exports[kind])).build(seed=0)
