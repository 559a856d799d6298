"""The properties of all losses, tested on every file under conf/loss, a new one included (oracle 9).

All contracts: values at padding, the order of documents and of lists, and lists without a document change nothing;
value and gradient are finite for every input; a misordering always has a gradient; gradients are derivatives. List
losses also: the other lists and a constant added to a list's scores change nothing, and any leading axes are allowed. A
loss may be exempt by the flags of `losses.contracts.Loss`; an exemption that is not needed fails. The summary of the
test run names the exemptions. `pytest tests/losses/test_properties.py --config-dir DIR` tests the losses of DIR/loss.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from loss_samples import REPRESENTATIONS, Case, Sample, configured, is_exempt, misordered
from policies import Policy
from torch import Tensor

from data.formats.file import FileConfig
from losses.contracts import (
    REQUIREMENTS,
    ListLoss,
    LossInputs,
    all_losses,
    has_in_batch_negatives,
    input_names,
    missing_requirements,
    requirements,
)
from losses.sparsity import Sparsity
from losses.xtr import XTR

SIZES = (5, 3, 4, 4)
PER_DOCUMENT = ("scores", "logsumexp", "documents", "document_layers")


def same(found, expected, **tolerances) -> None:
    torch.testing.assert_close(found.value, expected.value, **tolerances)
    torch.testing.assert_close(found.gradients, expected.gradients, **tolerances)


def test_there_are_losses(request):
    assert configured(request.config.getoption("--config-dir", default=None)), "no file in the folder loss"


def test_declarations_of_a_loss(case: Case):
    names = REQUIREMENTS.keys()
    assert requirements(case.loss) <= names, f"requires: choose of {', '.join(names)}"
    assert isinstance(case.loss, Policy) or set(input_names(case.loss)) <= LossInputs.__dataclass_fields__.keys()
    assert set(getattr(case.loss, "optional_inputs", ())) <= LossInputs.__dataclass_fields__.keys()
    assert case.loss == case.loss, "a frozen dataclass compares by value"
    assert hash(type(case.loss)), "a frozen dataclass"


def test_padding(case: Case):
    plain = case.evaluate(case.sample())
    padded_sample = case.with_actions(case.sample().padded(3))
    padded = case.evaluate(padded_sample)
    torch.testing.assert_close(padded.value, plain.value)
    torch.testing.assert_close(padded.statistics, plain.statistics)
    assert max(gradient.abs().max() for gradient in plain.gradients.values()) > 1e-4
    for name, gradient in padded.gradients.items():
        if name in PER_DOCUMENT:
            assert (gradient[~padded_sample.mask] == 0).all(), name
            gradient = gradient[:, :5]
        torch.testing.assert_close(gradient, plain.gradients[name])


def test_order_of_documents(case: Case):
    order = torch.tensor([3, 0, 4, 1, 2])
    sample = case.sample()
    plain, moved = case.evaluate(sample), case.evaluate(sample.documents_at(order))
    torch.testing.assert_close(moved.value, plain.value)
    for name, gradient in moved.gradients.items():
        expected = plain.gradients[name]
        torch.testing.assert_close(gradient, expected[:, order] if name in PER_DOCUMENT else expected)


def test_order_of_lists(case: Case):
    order = torch.tensor([2, 0, 3, 1])
    sample = case.sample()
    plain, moved = case.evaluate(sample), case.evaluate(sample.at(order))
    torch.testing.assert_close(moved.value, plain.value)
    for name, gradient in moved.gradients.items():
        expected = plain.gradients[name]
        torch.testing.assert_close(gradient, expected[order] if expected.ndim else expected)


def test_a_list_of_padding_changes_nothing(case: Case):
    plain = case.evaluate(case.sample())
    longer = case.evaluate(case.with_actions(case.sample().followed_by_padding()))
    torch.testing.assert_close(longer.value, plain.value)
    for name, gradient in longer.gradients.items():
        if gradient.ndim:
            assert (gradient[-1] == 0).all(), name
            gradient = gradient[:-1]
        torch.testing.assert_close(gradient, plain.gradients[name])


def test_weights_of_one_are_no_weights(case: Case):
    if isinstance(case.loss, Policy):
        pytest.skip("a policy takes no weights")
    sample = case.sample()
    same(case.evaluate(replace(sample, weights=torch.ones(4))), case.evaluate(sample))


def test_a_weight_multiplies_the_gradient_of_its_list(case: Case):
    if not isinstance(case.loss, ListLoss):
        pytest.skip("list losses")
    weights = torch.tensor([0.5, 2.0, 0.0, 3.0])
    weighted = case.evaluate(replace(case.sample(), weights=weights))
    plain = case.evaluate(case.sample())
    torch.testing.assert_close(weighted.gradients["scores"], plain.gradients["scores"] * weights[:, None])


def test_the_other_lists_of_the_batch(case: Case):
    """They may change a list's gradient by a common factor only, the denominator, which their scores do not enter."""
    if case.loss.contract != "list":
        pytest.skip("list losses")
    coupled = is_exempt(case.loss, "depends_on_other_lists")
    found = [other_lists_change_nothing(case, row) for row in (0, 1)]
    assert coupled or all(found)
    assert not (coupled and all(found)), "depends_on_other_lists = True is not needed"


def other_lists_change_nothing(case: Case, row: int) -> bool:
    sample = case.sample().to(torch.float64)
    together = case.evaluate(sample).gradients["scores"][row]
    others = sample.scores.neg().index_copy(0, torch.tensor([row]), sample.scores[row : row + 1])
    beside = case.evaluate(replace(sample, scores=others)).gradients["scores"][row]
    alone = case.evaluate(sample.at([row]).documents_at(slice(SIZES[row]))).gradients["scores"][0]
    together, beside = together[: SIZES[row]], beside[: SIZES[row]]
    factor = (together @ alone) / (alone @ alone).clamp(min=1e-12)
    assert factor > 0 or not alone.any(), f"a list's gradient is {factor} times that of the list alone"
    return torch.allclose(beside, together, rtol=1e-6) and torch.allclose(factor * alone, together, rtol=1e-6)


def test_a_constant_added_to_the_scores_of_a_list(case: Case):
    if case.kind != "scores":
        pytest.skip("of scores")
    sample = case.sample().to(torch.float64)
    plain = case.evaluate(sample)
    shift = torch.tensor([[3.0], [-7.0], [20.0], [1.0]]).double()
    shifted = case.evaluate(replace(sample, scores=sample.scores + shift))
    if is_exempt(case.loss, "shift_invariant"):
        assert not torch.allclose(shifted.value, plain.value), "shift_invariant = False is not needed"
        return
    same(shifted, plain)
    if not is_exempt(case.loss, "differentiable"):
        sums = plain.gradients["scores"].sum(-1)
        torch.testing.assert_close(sums, torch.zeros_like(sums), atol=1e-6, rtol=0)


def test_leading_axes_are_free(case: Case):
    if case.loss.contract != "list":
        pytest.skip("list losses")
    sample = case.sample()
    flat = case.evaluate(sample)
    for index in (None, (slice(None), None)):
        nested = case.evaluate(sample.at(index))
        torch.testing.assert_close(nested.value, flat.value)
        torch.testing.assert_close(nested.gradients["scores"], flat.gradients["scores"][index])
    single, batch = case.evaluate(sample.at(0)), case.evaluate(sample.at([0]))
    torch.testing.assert_close(single.value, batch.value)
    torch.testing.assert_close(single.gradients["scores"], batch.gradients["scores"][0])


def large_scores(sample: Sample) -> Sample:
    opposite = {name: -sample.scores.sign() * 1e4 for name in ("teacher_scores", "reference_scores")}
    return replace(sample, scores=sample.scores.sign() * 1e4, **opposite)


def with_vectors(change) -> object:
    """A case that changes queries and documents, those of the earlier layers too."""

    def changed(sample: Sample) -> Sample:
        queries, documents = change(sample.queries)
        query_layers = queries.unsqueeze(-2).expand_as(sample.query_layers)
        document_layers = documents.unsqueeze(-2).expand_as(sample.document_layers)
        layers = {"query_layers": query_layers, "document_layers": document_layers}
        return replace(sample, queries=queries, documents=documents, **layers)

    return changed


def for_documents(queries: Tensor) -> Tensor:
    """[4, dim] -> [4, 5, dim]."""
    return queries.unsqueeze(-2).expand(-1, 5, -1)


def one_vector(queries: Tensor) -> Tensor:
    return queries[:1].expand_as(queries)


SCORES = {
    "+-1e4": large_scores,
    "all 1e4": lambda sample: replace(sample, scores=torch.full_like(sample.scores, 1e4)),
    "all equal": lambda sample: replace(sample, scores=torch.zeros_like(sample.scores)),
}
EMBEDDINGS = {
    "as they are": lambda sample: sample,
    "all identical": with_vectors(lambda queries: (one_vector(queries), for_documents(one_vector(queries)))),
    "identical to their query": with_vectors(lambda queries: (queries, for_documents(queries))),
    "opposite to their query": with_vectors(lambda queries: (queries, -for_documents(queries))),
    "large": with_vectors(lambda queries: (queries * 1e3, 1e3 * for_documents(queries.roll(1, 0)))),
}
LISTS = {
    "labels all equal": lambda sample: replace(sample, labels=torch.ones_like(sample.labels)),
    "no relevant document": lambda sample: replace(sample, labels=torch.zeros_like(sample.labels)),
    "one document": lambda sample: replace(sample, mask=(torch.arange(5) == 2).expand(4, 5)),
    "one list": lambda sample: sample.at([0]),
    "masked": lambda sample: replace(sample, mask=torch.zeros_like(sample.mask)),
    "bf16": lambda sample: sample.to(torch.bfloat16, (*REPRESENTATIONS[:6], "teacher_scores", "reference_scores")),
}


@pytest.mark.parametrize("extreme", dict.fromkeys([*SCORES, *EMBEDDINGS, *LISTS]))
def test_finite(case: Case, extreme: str):
    changes = LISTS | (SCORES if case.kind == "scores" else EMBEDDINGS)
    if extreme not in changes:
        pytest.skip(f"not of {case.kind}")
    sample = case.with_actions(changes[extreme](case.sample()))
    result = case.evaluate(sample)
    assert result.value.isfinite()
    assert all(statistic.isfinite() for statistic in result.statistics.values())
    for name, gradient in result.gradients.items():
        assert gradient.isfinite().all(), name
        if name in PER_DOCUMENT:
            assert (gradient[~sample.mask] == 0).all(), name
    if extreme == "masked":
        assert result.value == 0
        assert not any(gradient.any() for gradient in result.gradients.values())
    if extreme == "all equal":
        assert (result.gradients["scores"][:2].abs().amax(-1) > 0).all(), "what a fresh model gives must teach"
    if extreme == "bf16":
        assert result.value.dtype == torch.float32, "computed in float32"


def of_texts_alone(loss):
    """The loss without what a text that is far away changes of others: divergences, and the ranges of quantised ones
    (its own signs stay as they are)."""
    changes = {"kl_div_weight": 0.0, "precisions": ("fp32",)}
    changes = {name: value for name, value in changes.items() if hasattr(loss, name)}
    if hasattr(loss, "loss"):
        changes["loss"] = of_texts_alone(loss.loss)
    return replace(loss, **changes) if changes else loss


def test_a_text_that_is_never_a_negative_counts_as_one_that_is_infinitely_far(case: Case):
    """All texts are orthogonal. One is moved away from query 0 and its positives, and so from nothing else."""
    if not has_in_batch_negatives(case.loss):
        pytest.skip("losses with in-batch negatives")
    if any(isinstance(each, Sparsity) for each in all_losses(case.loss)):
        pytest.skip("a penalty of the weights of that text")
    orthogonal = Case(of_texts_alone(case.loss), case.kind)
    axes = torch.eye(24, 64)
    documents = axes[4:].reshape(4, 5, 64)
    away = documents.clone()
    away[1, 1] -= 1e4 * (axes[0] + documents[0, 1] + documents[0, 2])
    near = with_vectors(lambda queries: (axes[:4], documents))(case.sample())
    near = replace(near, guide_queries=torch.ones(4, 6), guide_documents=torch.ones(4, 5, 6))
    far = with_vectors(lambda queries: (axes[:4], away))(near)
    marked = replace(near, never_negatives=torch.tensor([[0, int(near.document_hashes[1, 1])], [2, 10**9]]))
    plain, masked, removed = (orthogonal.evaluate(sample) for sample in (near, marked, far))
    assert plain.gradients["documents"][1, 1, 0] != 0
    assert masked.gradients["documents"][1, 1, 0] == 0, "the pair has no gradient"
    torch.testing.assert_close(masked.value, removed.value, atol=1e-4, rtol=0)
    masked.gradients["documents"][1, 1] = removed.gradients["documents"][1, 1] = 0  # of another length
    others = [place for place in range(64) if not away[1, 1, place]]  # the text that moved stands out in its own places
    for name in ("queries", "documents"):
        torch.testing.assert_close(
            masked.gradients[name][..., others], removed.gradients[name][..., others], atol=1e-4, rtol=0
        )


def test_a_misordering_of_30(case: Case):
    if isinstance(case.loss, Policy):
        pytest.skip("a policy learns of what it samples")
    sample = misordered(case.kind)
    name = "scores" if case.kind == "scores" else "documents"
    in_float32, in_float64 = (
        case.evaluate(sample.to(dtype)).gradients[name].abs().reshape(4, -1).amax(-1).min()
        for dtype in (torch.float32, torch.float64)
    )
    if is_exempt(case.loss, "masks_misordered"):
        assert in_float64 == 0, "masks_misordered = True is not needed"
        return
    assert in_float64 > 0, "a document without a gradient"
    if is_exempt(case.loss, "saturates"):
        assert in_float32 < 1e-6, "saturates = True is not needed"
    else:
        assert in_float32 > 1e-6, "a document without a gradient: compute in another form, or saturates = True"


def test_gradients_are_derivatives(case: Case):
    """Along random directions of all representations: exact where each partial derivative is."""
    if any(isinstance(each, XTR) for each in all_losses(case.loss)):
        pytest.skip("among so few tokens all are found; test_xtr.py has more")
    sample = case.sample().to(torch.float64)
    inputs = {name: value for name, value in sample.tensors().items() if name in REPRESENTATIONS}
    generator = torch.Generator().manual_seed(0)
    directions = {name: torch.randn(4, *value.shape, generator=generator).double() for name, value in inputs.items()}

    def value(steps: Tensor) -> Tensor:
        moved = {name: value + torch.tensordot(steps, directions[name], 1) for name, value in inputs.items()}
        return case.value(replace(sample, **moved))

    exempt = is_exempt(case.loss, "differentiable")
    steps = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    # The default tolerances overlook a stopped gradient beside larger terms.
    holds = torch.autograd.gradcheck(value, steps, rtol=1e-5, atol=1e-7, raise_exception=False)
    assert holds or exempt, "the gradient is not the derivative of the value"
    assert not holds or not exempt, "differentiable = False is not needed"


@pytest.fixture(scope="session")
def degrees_give(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """What lists of degrees of similarity give, with a teacher."""
    folder = tmp_path_factory.mktemp("degrees")
    rows = [{"query": f"q {i}", "docs": ["a", "b", "c"], "labels": [0.9, 0.4, 0.1]} for i in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = FileConfig(path=str(folder / "rows.jsonl"), cache_dir=str(folder), dev_fraction=0.0).build()
    assert data.split("train").degrees
    return data.available | {"teacher_scores"}


def test_a_list_of_degrees_has_a_gradient_unless_it_is_refused(case: Case, degrees_give: frozenset[str]):
    if missing_requirements(case.loss, degrees_give):
        pytest.skip("refused")
    sample = case.sample().at([0]).documents_at(slice(3))
    found = case.evaluate(case.with_actions(replace(sample, labels=torch.tensor([[0.9, 0.4, 0.1]]))))
    assert max(gradient.abs().max() for gradient in found.gradients.values()) > 1e-4
