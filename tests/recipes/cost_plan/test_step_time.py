"""The time of a step: sums of parts, what hides behind what, and rates that are found again from times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engines.expected_traffic import Traffic
from recipes.cost_plan.hardware import Assumptions, cpu_rates
from recipes.cost_plan.step_time import Rates, fit_rates, seconds_on_shared_cores, step_time
from recipes.cost_plan.step_work import StepWork

RATES = Rates(100.0, 50.0, 20.0, 10.0, 0.0, 0.0, 5.0, 0.0, 0.5)
TRAFFIC = (
    Traffic("gradients", 40.0, behind="backward", backwards=1),
    Traffic("texts", 20.0, behind="objective"),
    Traffic("tokens", 10.0, calls=2, hops=3),
)
WORK = StepWork(4, 16.0, 2.0, 100.0, 200.0, 50.0, 25.0, TRAFFIC)


def test_parts_of_a_step() -> None:
    found = step_time(WORK, RATES, ranks_per_node=4)
    assert (found.compute, found.objective, found.update, found.fixed) == (3.0, 0.5, 0.5, 0.5)
    # Of the gradients' 2 s the backward of one of two chunks hides 1, of the texts' 1 s the objective .5.
    assert found.exchange == pytest.approx(1.0 + 0.5 + 0.5)
    assert found.total == pytest.approx(6.5)


def test_ranks_on_several_nodes_exchange_at_the_rate_between_them() -> None:
    slow = replace(RATES, message_s_between=0.01)
    assert step_time(WORK, slow, ranks_per_node=2).exchange == pytest.approx(3.0 + 0.01 + 1.5 + 0.01 + 1.06)


def test_ranks_of_one_node_exchange_at_its_rate() -> None:
    texts = Traffic("texts", 40.0, ranks=2)
    assert step_time(replace(WORK, traffic=(texts,)), RATES, ranks_per_node=2).exchange == pytest.approx(2.0)
    assert step_time(replace(WORK, traffic=(texts,)), RATES, ranks_per_node=1).exchange == pytest.approx(4.0)


def test_without_overlap_everything_waits() -> None:
    assert step_time(WORK, replace(RATES, overlaps=False), ranks_per_node=4).exchange == pytest.approx(3.5)


def test_the_next_batch_comes_during_a_step() -> None:
    def exchange(num_bytes: float) -> float:
        lists = Traffic("lists", num_bytes, behind="step", on_host=True)
        return step_time(replace(WORK, traffic=(lists,)), RATES, ranks_per_node=4).exchange

    assert exchange(15.0) == 0.0  # the 3 s of its forwards and backwards
    assert exchange(20.0) == pytest.approx(1.0)
    rows = replace(RATES, row_s=0.25)
    assert step_time(replace(WORK, traffic=()), rows, ranks_per_node=4).exchange == pytest.approx(16 * 0.25 - 3.0)


def test_rates_are_found_again() -> None:
    known = Rates(100.0, 50.0, 20.0, 20.0, 0.0, 0.0, 20.0, 0.0, 0.5, row_s=0.01, overlaps=False)
    rates = {"large": known, "small": replace(known, flops=70.0)}
    works, models = [], []
    for ranks in (1, 2, 4):
        for model, parameters in (("large", 25.0), ("small", 5.0)):
            moved = 4 * parameters * (ranks - 1) / ranks
            for size in (1.0, 2.0, 5.0):
                flops = [size * each / ranks for each in (100.0, 200.0, 10.0)]
                traffic = (Traffic("gradients", moved),) if ranks > 1 else ()
                works.append(StepWork(ranks, 16 * size, 2.0, *flops, parameters, traffic))
                models.append(model)
    seconds = [step_time(work, rates[model], 4).total for work, model in zip(works, models, strict=True)]
    fitted = fit_rates(works[:12], seconds[:12], models[:12])
    for work, model, expected in zip(works, models, seconds, strict=True):
        assert step_time(work, fitted[model], ranks_per_node=4).total == pytest.approx(expected, rel=1e-6)


def test_assumed_rates_are_named() -> None:
    assumed = Assumptions("a100", network_gbit=200.0)
    assert assumed.rates("bf16").flops == pytest.approx(312e12 * assumed.product_share)
    assert assumed.rates("fp32").flops == pytest.approx(19.5e12 * assumed.product_share)
    assert assumed.rates("bf16").bytes_between == pytest.approx(25e9 * assumed.network_share)
    assert assumed.describe().startswith("assumed, not measured: a100 at 35% of its peak")
    assert "200 Gbit/s" in assumed.describe()


def test_ranks_of_a_cpu_share_its_cores() -> None:
    one, many = cpu_rates(1), cpu_rates(1000)
    assert one.flops > many.flops > 0
    assert not one.overlaps


def test_ranks_that_share_cores_get_equal_parts_of_them() -> None:
    assert seconds_on_shared_cores([3.0], 2) == 3.0
    assert seconds_on_shared_cores([3.0, 1.0], 2) == 3.0
    assert seconds_on_shared_cores([2.0, 2.0, 2.0, 2.0], 2) == 4.0
    # Four share two cores until three are done at 2; the last has one to itself.
    assert seconds_on_shared_cores([2.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert seconds_on_shared_cores([1.0, 2.0, 4.0], 1) == 7.0
