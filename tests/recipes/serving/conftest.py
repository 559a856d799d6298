"""The exports that the tests of serving share. They are made once."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from golden_exports import write_exports


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, tiny_models: ModuleType) -> dict[str, Path]:
    """Folders of every kind of export, by name. Do not write to them."""
    return write_exports(tmp_path_factory.mktemp("serving"), tiny_models)
