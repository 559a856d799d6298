"""The score of a yes/no reranker from the language model's own head, without the logits of its vocabulary.

With h the hidden state at the last token of a prompt, z_v = w_v h + b_v the logit of token v:

    score = z_yes - z_no,    logsumexp = log sum_v exp(z_v) - z_no

so that log p(yes) = score - logsumexp and log p(no) = -logsumexp over the whole vocabulary. All of it in float32, under
autocast too: bf16 logits of 10 and more differ by steps of 0.0625.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

CAPS = ("final_logit_softcapping", "logits_soft_cap")
BLOCK = 8192  # tokens of the vocabulary whose logits are held at a time


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to z = w h + b, then the logit: cap * tanh(scale * z / cap), or scale * z without a cap."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: PretrainedConfig) -> LogitTransform:
        """From `final_logit_softcapping` (Gemma), `logits_soft_cap` (RecurrentGemma), `logit_scale` (Cohere),
        `lm_head_multiplier` (Falcon-H1) and `logits_scaling`, by which HyperCLOVA X multiplies and Granite divides."""
        factor = getattr(config, "logits_scaling", None) or 1.0
        scale = factor if config.model_type.startswith("hyperclovax") else 1.0 / factor
        for name in ("logit_scale", "lm_head_multiplier"):
            scale *= getattr(config, name, None) or 1.0
        return cls(scale, next(filter(None, (getattr(config, name, None) for name in CAPS)), None))

    def __call__(self, logits: Tensor) -> Tensor:
        scaled = logits * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)

    def derivative(self, logits: Tensor) -> Tensor | float:
        """The derivative of `__call__` at untransformed logits."""
        if self.cap is None:
            return self.scale
        return self.scale * (1 - torch.tanh(logits * self.scale / self.cap).square())


@torch.no_grad()
def check_transform(model: PreTrainedModel, transform: LogitTransform) -> None:
    """Raise ValueError if the logits of `model` are not `transform` of its head's: the scores would be silently wrong.

    They are compared on a few tokens, with the head's output enlarged until a cap would show. A model on the meta
    device is not checked.
    """
    head: Any = model.get_output_embeddings()
    if head.weight.is_meta:
        return
    was_training, own, hook = model.training, head.forward, vars(head).get("forward")
    ids = torch.arange(8, device=head.weight.device).unsqueeze(0)
    try:
        model.eval()
        raw = own(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        gain = 100.0 / raw.abs().max().clamp(min=1e-6)
        head.forward = lambda hidden: own(hidden) * gain
        found = model(input_ids=ids, use_cache=False).logits
    finally:
        vars(head).pop("forward", None)
        if hook is not None:  # a library's own
            head.forward = hook
        model.train(was_training)
    expected = transform(raw * gain).to(found.device)
    if (found - expected).abs().max() > 0.02 * expected.abs().max():
        kind = model.config.model_type
        raise ValueError(f"{kind} computes its logits in a way that is not read here: choose another model")


def answer_with(head: nn.Module, yes: int, no: int, transform: LogitTransform) -> None:
    """Make `head(hidden [rows, dim], logsumexp: bool)` give (score [rows], logsumexp [rows] or None) in float32.

    The method of the instance is replaced: its weights are gathered by ZeRO-3 when the module is called, its name and
    class, which saving and peft go by, stay, and weights tied to the embeddings stay tied.
    """
    head.forward = partial(_answer, head, yes, no, transform)


def _answer(
    head: Any, yes: int, no: int, transform: LogitTransform, hidden: Tensor, logsumexp: bool
) -> tuple[Tensor, Tensor | None]:
    with torch.autocast(hidden.device.type, enabled=False):
        hidden = hidden.float()
        answers = torch.tensor([yes, no], device=hidden.device)
        weight = head.weight[answers].float()
        bias = None if head.bias is None else head.bias[answers].float()
        if transform.cap is None:
            score = hidden @ (weight[0] - weight[1]) + (0.0 if bias is None else bias[0] - bias[1])
            score = score * transform.scale
        else:
            logits = transform(F.linear(hidden, weight, bias))
            score = logits[:, 0] - logits[:, 1]
        if not logsumexp:
            return score, None
        of_no = transform(F.linear(hidden, weight[1:], None if bias is None else bias[1:]))[:, 0]
        return score, vocabulary_logsumexp(hidden, head.weight, head.bias, transform) - of_no


def vocabulary_logsumexp(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform, block: int = BLOCK
) -> Tensor:
    """log sum_v exp(z_v) [rows] of hidden [rows, dim], weight [vocabulary, dim], bias [vocabulary].

    `block` tokens of the vocabulary at a time, forward and (recomputed) backward: [rows, vocabulary] is never held.
    """
    result = _VocabularyLogSumExp.apply(hidden, weight, bias, transform, block)
    assert isinstance(result, Tensor)
    return result


class _VocabularyLogSumExp(torch.autograd.Function):
    """The weight is saved as the parameter that it is: under ZeRO-3 it is freed after the forward, and gathered again
    for the backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform, block: int
    ) -> Tensor:
        total = hidden.new_full(hidden.shape[:1], -torch.inf)
        for part in _blocks(len(weight), block):
            logits = transform(_logits(hidden, weight, bias, part))
            total = torch.logaddexp(total, logits.logsumexp(dim=-1))
        ctx.save_for_backward(hidden, weight, bias, total)
        ctx.transform, ctx.block = transform, block
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, total = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        of_hidden = torch.zeros_like(hidden) if needs_hidden else None
        of_weight = torch.empty_like(weight) if needs_weight else None
        of_bias = torch.empty_like(bias) if needs_bias else None
        for part in _blocks(len(weight), ctx.block):
            raw = _logits(hidden, weight, bias, part)
            shares = (ctx.transform(raw) - total.unsqueeze(-1)).exp()
            of_logits = gradient.unsqueeze(-1) * shares * ctx.transform.derivative(raw)
            if of_hidden is not None:
                of_hidden += of_logits @ weight[part].to(hidden.dtype)
            if of_weight is not None:
                of_weight[part] = (of_logits.T @ hidden).to(weight.dtype)
            if of_bias is not None:
                of_bias[part] = of_logits.sum(dim=0).to(bias.dtype)
        return of_hidden, of_weight, of_bias, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    return F.linear(hidden, weight[part].to(hidden.dtype), None if bias is None else bias[part].to(hidden.dtype))


def _blocks(size: int, block: int) -> list[slice]:
    return [slice(start, min(start + block, size)) for start in range(0, size, block)]
