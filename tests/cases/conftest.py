"""Settings of short runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def settings(tmp_path: Path, tiny_bert_dir: Path) -> Callable[..., list[str]]:
    """`settings(path, *more)`: a short run on that file. A cross-encoder by default."""

    def settings(path: str, *more: str) -> list[str]:
        model = [f"model.name_or_path={tiny_bert_dir}", "model.max_length=32"]
        trainer = ["trainer.max_steps=4", "trainer.eval_every=2", "trainer.save_every=2", "trainer.workers=0"]
        places = [f"output_dir={tmp_path / 'outputs'}", f"data.cache_dir={tmp_path}", "run_name=run", "logger=none"]
        return ["data=file", f"data.path={path}", *model, *trainer, "trainer.batch_size=4", *places, *more]

    return settings
