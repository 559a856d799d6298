"""The checks of options name the option, its value and the remedy."""

from __future__ import annotations

import pytest

from losses.math.checks import check_at_least, check_one_of, check_positive


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="mode='c' is not known; choose one of: a, b"):
        check_one_of("mode", "c", ("a", "b"))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        check_at_least("k", 0, 1)
    with pytest.raises(ValueError, match="temperature must be a finite number, got nan"):
        check_positive("temperature", float("nan"))
