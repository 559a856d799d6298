"""LoRA by peft: low-rank updates of the backbone's linear layers, with a score head trained in full.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers

from models.capabilities import Part
from models.cpu.kernels import use_cpu_kernels
from models.loading.backbone import quiet
from models.loading.quantization import dequantized

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class LoRAConfig:
    """W + (alpha / r) B A for each target layer, A [r, in] random, B [out, r] zero, W frozen.

    `target_modules` None: every linear layer of the backbone outside the head.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: list[str] | None = None

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"model.lora: r={self.r} must be at least 1, dropout={self.dropout} in [0, 1)")

    def wrap(
        self, backbone: PreTrainedModel, task_type: str, *, head: Sequence[str] = (), unused: Sequence[str] = ()
    ) -> PeftModel:
        """Freeze the weights of `backbone`, add adapters, and train copies of the `head` modules in full. The `unused`
        modules get no adapters.

        Raises ValueError if `target_modules` names a layer that the model does not have.
        """
        outside = tuple(f"{name}." for name in (*head, *unused))
        linear = [
            name
            for name, module in backbone.named_modules()
            if isinstance(module, nn.Linear | Conv1D) and not f"{name}.".startswith(outside)
        ]
        excluded = [name for name, _ in backbone.named_modules() if name.startswith(tuple(f"{n}." for n in unused))]
        valid = sorted({name.rsplit(".", 1)[-1] for name in linear})
        targets = list(self.target_modules or valid)
        for target in targets:
            if not any(name == target or name.endswith(f".{target}") for name in linear):
                raise ValueError(
                    f"model.lora.target_modules={target}: this model's linear layers are {', '.join(valid)}"
                )
        config = LoraConfig(
            task_type=task_type,
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            modules_to_save=list(head),
            exclude_modules=excluded or None,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in backbone.modules()),
        )
        with quiet():
            wrapped = get_peft_model(backbone, config)
        assert isinstance(wrapped, PeftModel)
        use_cpu_kernels(wrapped)  # the adapters' dropout
        return wrapped


def has_adapters(model: nn.Module) -> bool:
    """Whether LoRA contains all trained weights of `model` (no projection or temperature is trained beside it), so that
    `reference` can restore the starting model."""
    inside = {id(parameter) for wrapped in _peft_models(model) for parameter in wrapped.parameters()}
    return bool(inside) and all(id(parameter) in inside for parameter in model.parameters() if parameter.requires_grad)


def describe_adapters(model: nn.Module) -> str | None:
    """The adapters' options in words; None if there are no adapters."""
    wrapped = _peft_models(model)
    if not wrapped:
        return None
    config = wrapped[0].peft_config["default"]
    assert isinstance(config, LoraConfig)
    return f"LoRA of rank {config.r}, alpha {config.lora_alpha}, dropout {config.lora_dropout}"


@contextmanager
def reference(model: Model) -> Iterator[Model]:
    """Turn `model` into the one that training started from: adapters are off, and the head has its old weights.

    With a new head the starting scores are random, and a KL to them is meaningless: train the head first.
    """
    if not has_adapters(model):
        raise ValueError("reference scores from the model itself need LoRA, and no other trained weights")
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with ExitStack() as stack:
        # Peft would make all of the head trainable again, frozen parameters too.
        for parameter, trains in trained.items():
            stack.callback(parameter.requires_grad_, trains)
        for wrapped in _peft_models(model):
            stack.enter_context(wrapped.disable_adapter())
        yield model


def parts_of(backbone: PreTrainedModel | PeftModel, *, head: Collection[str] = (), tower: str = "") -> list[Part]:
    """The parts of `backbone`: the weights of the modules `head`, the adapters, and the backbone itself, to which the
    untrained copy of a head under LoRA belongs."""
    parts: dict[str, list[nn.Parameter]] = {"backbone": [], "head": [], "adapters": []}
    inside_head = tuple(f"{name}." for name in head)
    for name, parameter in backbone.named_parameters():  # weights that two modules share are named once
        own = name.removeprefix("base_model.model.") if isinstance(backbone, PeftModel) else name
        if ".original_module." in own:
            parts["backbone"].append(parameter)
        elif ".modules_to_save." in own or own.startswith(inside_head):
            parts["head"].append(parameter)
        else:
            parts["adapters" if "lora_" in own else "backbone"].append(parameter)
    return [Part(name, tuple(parameters), tower) for name, parameters in parts.items() if parameters]


def _peft_models(model: nn.Module) -> list[PeftModel]:
    return [module for module in model.modules() if isinstance(module, PeftModel)]


def merge_adapters(wrapped: PeftModel, state: dict[str, Tensor]) -> PreTrainedModel:
    """Make a plain model with the adapters of `state` (from `wrapped.state_dict()`, on the CPU) merged into it.

    The new model takes the tensors of `state` and changes them. `wrapped`, sharded or not, does not change.
    """
    base = wrapped.get_base_model()
    assert isinstance(base, PreTrainedModel)
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
        state = dequantized(wrapped, state)
    with torch.device("meta"):
        empty = get_peft_model(type(base)(config), copy.deepcopy(wrapped.peft_config["default"]))
    empty.load_state_dict(state, assign=True)
    merged_base = empty.get_base_model()
    assert isinstance(merged_base, PreTrainedModel)
    merged_base.tie_weights()  # a head that shares the embeddings' weights still does
    merged = empty.merge_and_unload()
    assert isinstance(merged, PreTrainedModel)
    return merged
