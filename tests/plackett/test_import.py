"""Importing plackett is quick and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

import plackett

ABOUT = """
import json, logging, os, sys, warnings
before = (dict(os.environ), list(sys.path), logging.getLogger().handlers[:], warnings.filters[:])
import plackett
after = (dict(os.environ), list(sys.path), logging.getLogger().handlers[:], warnings.filters[:])
print(json.dumps([before == after, sorted({"torch", "transformers", "numpy", "hydra"} & set(sys.modules))]))
"""


def test_import_is_quick_and_has_no_side_effects():
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", ABOUT], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, []]
    assert done.stderr == ""
    assert time.perf_counter() - begin < 10  # the interpreter's own start on a busy machine is most of it


def test_using_it_imports_no_hydra(tiny_reranker_dir):
    code = "import sys, plackett; plackett.load(sys.argv[1]); print('hydra' in sys.modules, 'launch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tiny_reranker_dir)], capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr


def test_every_public_name_is_there():
    assert all(getattr(plackett, name).__doc__ for name in plackett.__all__)
    assert set(plackett.__all__) <= set(dir(plackett))
    with pytest.raises(AttributeError, match="no attribute 'Ranker': it has Embedder"):
        plackett.Ranker.load("")
