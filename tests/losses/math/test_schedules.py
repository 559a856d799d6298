"""Schedules: their values along the training, and what is refused."""

from __future__ import annotations

import math

import pytest

from losses.math.schedules import Schedule


def values(schedule: Schedule) -> list[float]:
    return [schedule(progress) for progress in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)]


def test_linear_between_start_and_end():
    expected = [2.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]
    assert values(Schedule(initial=2.0, final=0.0, start=0.2, end=0.6)) == pytest.approx(expected)


def test_cosine_leaves_and_arrives_slowly():
    schedule = Schedule("cosine", initial=1.0, final=3.0, start=0.2, end=0.6)
    assert values(schedule) == pytest.approx([1.0, 1.0, 2 - math.sqrt(0.5), 2.0, 2 + math.sqrt(0.5), 3.0, 3.0])


def test_quadratic_starts_slowly():
    schedule = Schedule("quadratic", initial=1.0, final=3.0, start=0.2, end=0.6)
    assert values(schedule) == pytest.approx([1.0, 1.0, 1 + 2 / 16, 1 + 2 / 4, 1 + 2 * 9 / 16, 3.0, 3.0])


def test_the_defaults_fade_in_over_the_whole_training():
    assert [Schedule()(progress) for progress in (0.0, 0.25, 1.0)] == [0.0, 0.25, 1.0]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_switch(share):
    schedule = Schedule(start=share, end=share)
    assert schedule(share) == 1.0
    assert all(schedule(progress) == 0.0 for progress in (0.0, share - 1e-9) if progress < share)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "log"}, "shape='log' is not known; choose one of: linear, cosine, quadratic"),
        ({"initial": math.nan}, "initial must be a finite number"),
        ({"final": math.inf}, "final must be a finite number"),
        ({"start": -0.1}, "start must be at least 0"),
        ({"start": 0.5, "end": 0.4}, "end must be at least 0.5, got 0.4"),
        ({"end": 100}, "end must be at most 1, a fraction of the training, got 100"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**options)
