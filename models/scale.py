"""The temperature and bias of a model. Losses multiply its similarities by 1 / temperature and add the bias.

Source: learned as in CLIP (Radford et al. 2021, arXiv:2103.00020, section 2.3), with a bias as in SigLIP (Zhai et al.
2023, arXiv:2303.15343, equation 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FILE = "loss_parameters.safetensors"
LARGEST_SCALE = 100.0  # CLIP's: a learned temperature is at least 0.01


@dataclass(frozen=True)
class ScaleOptions:
    """The options of a model's temperature and bias. None: the values learned earlier and saved in its folder, if
    any."""

    temperature: float | None
    learn_temperature: bool
    bias: float | None
    learn_bias: bool

    def __post_init__(self) -> None:
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(f"model.temperature={self.temperature} must be null or above 0")
        if self.learn_temperature and self.temperature is not None and self.temperature < 1 / LARGEST_SCALE:
            raise ValueError(
                f"model.temperature={self.temperature}: a learned one starts at {1 / LARGEST_SCALE} or above"
            )
        if self.bias is not None and not math.isfinite(self.bias):
            raise ValueError(f"model.bias={self.bias} must be null or a finite number")

    def set_options(self) -> dict[str, dict[str, float]]:
        """The options that are set, by what they give: {"scale": {"temperature": 0.05}}."""
        options = {
            "scale": {"temperature": self.temperature, "learn_temperature": self.learn_temperature},
            "bias": {"bias": self.bias, "learn_bias": self.learn_bias},
        }
        return {
            name: {option: value for option, value in values.items() if value is not None and value is not False}
            for name, values in options.items()
        }

    def build(self, folder: Path) -> Scale | None:
        """Build the module; None if there is nothing to scale. Raises ValueError if a learned value has no start."""
        saved = saved_scale(folder)
        scale = saved.get("scale") if self.temperature is None else 1 / self.temperature
        bias = saved.get("bias") if self.bias is None else self.bias
        for option, start in (("temperature", scale), ("bias", bias)):
            if getattr(self, f"learn_{option}") and start is None:
                raise ValueError(f"model.learn_{option}=true needs a start, and {folder} has none: set model.{option}")
        if scale is None and bias is None:
            return None
        return Scale(scale, bias, learn_scale=self.learn_temperature, learn_bias=self.learn_bias)


def saved_scale(folder: Path) -> dict[str, float]:
    """The "scale" and "bias" that an earlier training has learned, if any."""
    file = folder / FILE
    return {name: value.item() for name, value in load_file(file).items()} if file.is_file() else {}


class Scale(nn.Module):
    """Holds s and b of s * similarity + b. A learned s is exp of a parameter, at most 100."""

    def __init__(self, scale: float | None, bias: float | None, *, learn_scale: bool, learn_bias: bool) -> None:
        super().__init__()
        self.fixed_scale = None if learn_scale else scale
        self.fixed_bias = None if learn_bias else bias
        # Of shape [1]: DeepSpeed cannot broadcast a parameter without dimensions.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)])) if learn_scale and scale is not None else None
        self.bias = nn.Parameter(torch.tensor([float(bias)])) if learn_bias and bias is not None else None

    def forward(self, rows: int, device: torch.device) -> dict[str, Tensor]:
        """Return "scale" [rows] and "bias" [rows], those that the model has, with the same value in every row."""
        values = {"scale": self._scale(), "bias": self.fixed_bias if self.bias is None else self.bias}
        return {
            name: torch.as_tensor(value, dtype=torch.float32, device=device).expand(rows)
            for name, value in values.items()
            if value is not None
        }

    def learned(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by the name of their option."""
        parameters = {"temperature": self.log_scale, "bias": self.bias}
        return {name: value for name, value in parameters.items() if value is not None}

    def values(self) -> dict[str, Tensor]:
        """The scalars "scale" and "bias" to save, those that the model has."""
        with torch.no_grad():
            return {name: value[0].clone() for name, value in self(1, torch.device("cpu")).items()}

    def _scale(self) -> Tensor | float | None:
        if self.log_scale is None:
            return self.fixed_scale
        # The value is clamped but the gradient is not, so that training can lower the scale again.
        excess = (self.log_scale - math.log(LARGEST_SCALE)).clamp(min=0).detach()
        return (self.log_scale - excess).exp()
