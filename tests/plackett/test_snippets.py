"""The examples of README.md and docs/serving.md run as they are written, on tiny models."""

from __future__ import annotations

import re

import pytest

from runs.source_tree import ROOT


@pytest.mark.parametrize("page", ["README.md", "docs/serving.md"])
def test_the_example_runs(page, tiny_reranker_dir, tiny_bert_dir, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    [code] = [block for block in blocks if "import plackett" in block]
    for name, folder in (("reranker_grpo", tiny_reranker_dir), ("embedder_infonce", tiny_bert_dir)):
        assert f'"outputs/{name}/model"' in code
        code = code.replace(f"outputs/{name}/model", str(folder))
    names = {"documents": ["red apple", "green pear", "a list", "a train"]}
    exec(code, names)
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert names["vectors" if page == "README.md" else "queries"].shape[1] == 32
