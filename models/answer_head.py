"""The score of a yes/no reranker from the language model's own head, without the logits of the whole vocabulary.

Let h be the hidden state at the last token of a prompt, z_v = w_v h + b_v the logit of token v:

    score = z_yes - z_no,    logsumexp = log sum_v exp(z_v) - z_no

Then log p(yes) = score - logsumexp and log p(no) = -logsumexp over the whole vocabulary. All is computed in float32,
under autocast too: bf16 logits of 10 and more have steps of 0.0625.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

SOFTCAP_NAMES = ("final_logit_softcapping", "logits_soft_cap")
BLOCK = 8192  # tokens of the vocabulary whose logits are in memory at a time


@dataclass(frozen=True)
class LogitTransform:
    """The transform of z = w h + b to the model's logit: cap * tanh(scale * z / cap), or scale * z without a cap."""

    scale: float = 1.0
    cap: float | None = None

    @classmethod
    def of(cls, config: PretrainedConfig) -> LogitTransform:
        """Read it from `final_logit_softcapping` (Gemma), `logits_soft_cap` (RecurrentGemma), `logit_scale` (Cohere),
        `lm_head_multiplier` (Falcon-H1) and `logits_scaling`, by which HyperCLOVA X multiplies and Granite divides."""
        factor = getattr(config, "logits_scaling", None) or 1.0
        scale = factor if config.model_type.startswith("hyperclovax") else 1.0 / factor
        for name in ("logit_scale", "lm_head_multiplier"):
            scale *= getattr(config, name, None) or 1.0
        return cls(scale, next(filter(None, (getattr(config, name, None) for name in SOFTCAP_NAMES)), None))

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
    """Raise ValueError if the logits of `model` are not `transform` of its head's output: the scores would be wrong.

    They are compared on a few tokens, with the head's output scaled up until a cap would have an effect. A model on the
    meta device is not checked.
    """
    head: Any = model.get_output_embeddings()
    if head.weight.is_meta:
        return
    was_training, forward, replaced = model.training, head.forward, vars(head).get("forward")
    ids = torch.arange(8, device=head.weight.device).unsqueeze(0)
    try:
        model.eval()
        raw = forward(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        gain = 100.0 / raw.abs().max().clamp(min=1e-6)
        head.forward = lambda hidden: forward(hidden) * gain
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        vars(head).pop("forward", None)
        if replaced is not None:  # a library had replaced it
            head.forward = replaced
        model.train(was_training)
    expected = transform(raw * gain).to(logits.device)
    if (logits - expected).abs().max() > 0.02 * expected.abs().max():
        kind = model.config.model_type
        raise ValueError(f"{kind} computes its logits in an unsupported way: choose another model")


def answer_with(head: nn.Module, yes: int, no: int, transform: LogitTransform) -> None:
    """Make `head(hidden [rows, dim], logsumexp: bool)` give (score [rows], logsumexp [rows] or None) in float32.

    Only the method of the instance is replaced. So ZeRO-3 gathers the weights when the module is called, saving and
    peft still find it by name and class, and weights tied to the embeddings stay tied.
    """
    head.forward = partial(_answer, head, yes, no, transform)


def _answer(
    head: Any, yes: int, no: int, transform: LogitTransform, hidden: Tensor, logsumexp: bool
) -> tuple[Tensor, Tensor | None]:
    with torch.autocast(hidden.device.type, enabled=False):
        hidden = hidden.float()
        answers = torch.tensor([yes, no]).to(hidden.device, non_blocking=True)
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
        no_logit = transform(F.linear(hidden, weight[1:], None if bias is None else bias[1:]))[:, 0]
        return score, vocabulary_logsumexp(hidden, head.weight, head.bias, transform) - no_logit


def vocabulary_logsumexp(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, transform: LogitTransform, block: int = BLOCK
) -> Tensor:
    """Compute log sum_v exp(z_v) [rows] from hidden [rows, dim], weight [vocabulary, dim] and bias [vocabulary].

    Forward and backward use `block` tokens of the vocabulary at a time: no tensor [rows, vocabulary] is made.
    """
    result = _VocabularyLogSumExp.apply(hidden, weight, bias, transform, block)
    assert isinstance(result, Tensor)
    return result


class _VocabularyLogSumExp(torch.autograd.Function):
    """The function behind `vocabulary_logsumexp`. It saves the parameter itself for the backward: under ZeRO-3 that is
    freed after the forward and gathered again."""

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
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_bias = torch.empty_like(bias) if needs_bias else None
        for part in _blocks(len(weight), ctx.block):
            raw = _logits(hidden, weight, bias, part)
            probabilities = (ctx.transform(raw) - total.unsqueeze(-1)).exp()
            grad_logits = gradient.unsqueeze(-1) * probabilities * ctx.transform.derivative(raw)
            if grad_hidden is not None:
                grad_hidden += grad_logits @ weight[part].to(hidden.dtype)
            if grad_weight is not None:
                grad_weight[part] = (grad_logits.T @ hidden).to(weight.dtype)
            if grad_bias is not None:
                grad_bias[part] = grad_logits.sum(dim=0).to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    return F.linear(hidden, weight[part].to(hidden.dtype), None if bias is None else bias[part].to(hidden.dtype))


def _blocks(size: int, block: int) -> list[slice]:
    return [slice(start, min(start + block, size)) for start in range(0, size, block)]
