"""Options that all models of single texts have: prompts, and the factor and bias of similarities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from models.capabilities import Layout
from models.loading.folder import ModelFolder
from models.pretrained import FolderOptions
from models.prompts.run_prompts import ROLES, RunPrompts
from models.scale import ScaleOptions, saved_scale

if TYPE_CHECKING:
    from typing import Self  # Python 3.11


@dataclass(frozen=True, kw_only=True)
class TextOptions(FolderOptions):
    """Options of a model that represents one text at a time."""

    layout: ClassVar[Layout] = "texts"
    default_evaluation: ClassVar[str] = "retrieval"

    prompts: dict[str, str] | None = None  # by role (query, document): put before the text; None: the folder's
    temperature: float | None = None  # losses read 1 / temperature times the similarity; None: they have their own
    learn_temperature: bool = False
    bias: float | None = None  # added to the scaled similarity (SigLIP)
    learn_bias: bool = False

    def check_values(self) -> None:
        if unknown := set(self.prompts or {}) - set(ROLES):
            raise ValueError(f"model.prompts.{min(unknown)} is not a role of a text: choose {', '.join(ROLES)}")
        self.scale_settings()
        super().check_values()

    def starting_from(self, folder: Path) -> Self:
        saved: dict[str, Any] = dict.fromkeys([*self._learned(), "prompts"])  # None: as saved in the folder
        changed: Any = super().starting_from(folder)
        return replace(changed, **saved)

    def saved_scale(self) -> Mapping[str, float]:
        return saved_scale(self.folder())

    def scale_options(self) -> Mapping[str, Mapping[str, Any]]:
        return self.scale_settings().set_options()

    def scale_settings(self) -> ScaleOptions:
        """The options of the factor and the bias of similarities. Raises ValueError if one is not valid."""
        return ScaleOptions(self.temperature, self.learn_temperature, self.bias, self.learn_bias)

    def parts_to_train(self) -> Mapping[str, str]:
        return {**super().parts_to_train(), **{name: f"model.learn_{name}=true" for name in self._learned()}}

    def prompt_options(self) -> Mapping[str, str]:
        return {f"prompts.{role}": prompt for role, prompt in (self.prompts or {}).items()}

    def lost_prompts(self, prompts: RunPrompts) -> list[str]:
        return prompts.without_name()

    def texts_of(self, folder: ModelFolder) -> dict[str, Any]:
        """The prompts of the folder, or of the options: arguments of a tokenizer of texts."""
        prompts = folder.prompts if self.prompts is None else self.prompts
        default = folder.settings.get("default_prompt_name")
        return {"prompts": prompts, "default_prompt": default if default in prompts else None}

    def _learned(self) -> list[str]:
        return [name for name in ("temperature", "bias") if getattr(self, f"learn_{name}")]
