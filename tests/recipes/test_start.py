"""The logger of a run is told how the run ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from recipes.start import tracked
from runs.loggers.logger import NoLogger


class Kept(NoLogger):
    def __init__(self):
        self.errors = []

    def stop(self, error):
        self.errors.append(error)


@pytest.mark.parametrize("error", [ValueError("a mistake"), KeyboardInterrupt(), None])
def test_an_error_reaches_the_logger_and_goes_on(error, monkeypatch):
    monkeypatch.setattr("recipes.start.as_tree", lambda settings: {})
    kept = Kept()
    settings = SimpleNamespace(logger=SimpleNamespace(build=lambda run, tree: kept))
    if error is None:
        with tracked(settings, None) as logger:
            assert logger is kept
        assert kept.errors == []
        return
    with pytest.raises(type(error)), tracked(settings, None):
        raise error
    assert kept.errors == [error]
