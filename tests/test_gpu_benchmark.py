"""benchmarks/gpu.py on a CPU, at toy sizes: what a part measures, what becomes of one that fails, and the table."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_gpus", ROOT / "benchmarks/gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_part_trains_and_counts_operations_on_real_tokens(gpu: ModuleType) -> None:
    found = gpu.run_part("train:embedder:padded", True, 60.0)
    assert found["first_loss"] > 0
    assert found["tokens_per_s"] > found["rows_per_s"] > 0
    tokens = found["tokens_per_s"] * found["seconds_per_step"]
    weights = 2 * (4 * 64 * 64 + 2 * 64 * 128)  # of the linear layers of the toy model
    flops_per_token = found["model_flops_per_s"] * found["seconds_per_step"] / tokens
    assert 6 * weights < flops_per_token < 6 * weights + 12 * 2 * 64 * 48  # attention over at most 48 tokens


def test_parts_that_fail_hang_or_lack_something_cost_only_themselves(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_part(name: str, toy: bool, limit_s: float) -> dict[str, Any]:
        from benchmarks.gpu_parts.ours import Unavailable

        if name == "hangs":
            time.sleep(100)
        if name == "lacks":
            raise Unavailable("sentence-transformers is not installed")
        return {"value": 1 // (name != "fails")}

    monkeypatch.setattr(gpu, "run_part", run_part)
    assert gpu.run_in_process("works", True, 60.0, "fork")["value"] == 1
    failed = gpu.run_in_process("fails", True, 60.0, "fork")
    assert (failed["status"], failed["error"]) == ("failed", "ZeroDivisionError")
    assert any("1 // (name" in line for line in failed["trace"])
    lacking = gpu.run_in_process("lacks", True, 60.0, "fork")
    assert lacking["status"] == "unavailable"
    assert gpu.summary(lacking) == "unavailable sentence-transformers is not installed"
    assert gpu.run_in_process("hangs", True, 0.5, "fork") == {"status": "timed out", "limit_s": 0.5}


def test_the_table_compares_the_faster_side_with_the_peer(gpu: ModuleType, tmp_path: Path) -> None:
    parts = {
        "peak": {"status": "ok", "matmul_bf16_flops_per_s": 1000.0},
        "train:embedder:padded": {"status": "ok", "tokens_per_s": 10.0, "model_flops_per_s": 300.0},
        "train:embedder:packed": {"status": "ok", "tokens_per_s": 20.0, "model_flops_per_s": 600.0},
        "train:embedder:sentence-transformers": {"status": "ok", "tokens_per_s": 8.0, "model_flops_per_s": 240.0},
        "train:reranker:padded": {"status": "timed out", "limit_s": 60.0},
    }
    rows = gpu.table(parts)
    assert (rows[0]["question"], rows[0]["ratio"], rows[0]["share_of_peak"]) == ("train:embedder", 2.5, 0.6)
    assert (rows[1]["ratio"], rows[1]["padded_status"], rows[1]["packed_status"]) == (None, "timed out", "not run")
    assert "| train:embedder | 10 | 20 | 8 | 2.50 | 60% |" in gpu.markdown(rows)
    gpu.write(tmp_path / "new" / "gpu.json", {"table": rows})
    assert json.loads((tmp_path / "new" / "gpu.json").read_text())["table"] == rows
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["gpu.json"]


def test_the_limits_of_all_parts_are_known_and_the_first_are_the_most_important(gpu: ModuleType) -> None:
    names = list(gpu.limits())
    assert names[:3] == ["machine", "peak", "tests"]
    assert len(names) == len(set(names))
    assert gpu.BUDGET_S <= 540
