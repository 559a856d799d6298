"""Numbers copied to the host: exact, of any type, and on a GPU without waiting for what is queued later."""

from __future__ import annotations

import math

import pytest
import torch

from engines.host_copy import HostCopy


def test_numbers_arrive_as_they_are() -> None:
    weight = torch.tensor([0.1], requires_grad=True)
    values = {
        "float": (weight * 3).sum(),
        "bool": torch.tensor(True),
        "int": torch.tensor(2**40 + 1),
        "bf16": torch.tensor(0.1, dtype=torch.bfloat16),
        "one element": torch.tensor([5.0]),
        "nan": torch.tensor(math.nan),
    }
    found = HostCopy(values).read()
    assert math.isnan(found.pop("nan"))
    assert found == {name: float(value) for name, value in values.items() if name != "nan"}


def test_the_values_are_those_of_the_time_of_the_copy() -> None:
    value = torch.tensor(1.0)
    copied = HostCopy({"value": value})
    value.fill_(2.0)
    assert copied.read() == {"value": 1.0}


@pytest.mark.gpu
def test_reading_waits_for_nothing_that_was_queued_later() -> None:
    value = torch.ones((), device="cuda")
    large = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    copied = HostCopy({"value": value, "of the host": torch.tensor(3)})
    done = torch.cuda.Event()
    for _ in range(50):
        large = large @ large * 1e-3
    done.record()
    assert copied.read() == {"value": 1.0, "of the host": 3.0}
    assert not done.query(), "the host has waited for the products"
