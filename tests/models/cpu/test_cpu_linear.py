"""Linear layers by oneDNN: torch's values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.cpu.linear import OneDnnLinear, linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.mark.parametrize("shape", [(20, 6), (4, 5, 6), (2, 3, 4, 6)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_gradients(shape: tuple[int, ...], has_bias: bool) -> None:
    plain = nn.Linear(6, 3, bias=has_bias)
    inputs = torch.randn(shape, requires_grad=True)
    leaves = [inputs, *plain.parameters()]
    results = []
    for function in (linear, nn.functional.linear):
        output = function(inputs, plain.weight, plain.bias)
        results.append((output, *torch.autograd.grad(output, leaves, torch.ones_like(output).cumsum(0))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert found.is_contiguous()


def test_inputs_and_gradients_of_any_layout() -> None:
    plain = nn.Linear(6, 3)
    inputs = torch.randn(6, 20).t().requires_grad_()
    for function in (linear, nn.functional.linear):
        function(inputs, plain.weight, plain.bias).sum().backward()  # an expanded gradient
        found, inputs.grad = inputs.grad, None
        torch.testing.assert_close(found, plain.weight.detach().sum(0).expand(20, 6), atol=1e-6, rtol=0)


def test_frozen_weights_get_no_gradient() -> None:
    module = OneDnnLinear(6, 3).requires_grad_(False)
    inputs = torch.randn(20, 6, requires_grad=True)
    module(inputs).sum().backward()
    assert inputs.grad is not None
    assert module.weight.grad is None
    assert module.bias.grad is None
    assert not module(inputs.detach()).requires_grad


@pytest.mark.parametrize("rows", [0, 1, 7, 8])
def test_any_number_of_rows(rows: int) -> None:
    module, inputs = OneDnnLinear(6, 3), torch.randn(rows, 6)
    output = module(inputs)
    torch.testing.assert_close(output, nn.functional.linear(inputs, module.weight, module.bias))
    # ZeRO-2 needs gradients in one order on all ranks, whose chunks have other numbers of rows.
    assert "_Linear" in output.grad_fn.name()
    output.sum().backward()
    torch.testing.assert_close(module.weight.grad, inputs.sum(0).expand(3, 6))
    assert module.bias.grad.tolist() == [rows] * 3


def test_autocast_and_other_types_are_torchs() -> None:
    module = OneDnnLinear(6, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(torch.randn(20, 6)).dtype == torch.bfloat16
    assert OneDnnLinear(6, 3).double()(torch.randn(20, 6).double()).dtype == torch.float64
    assert OneDnnLinear(6, 3, device="meta")(torch.empty(20, 6, device="meta")).is_meta
