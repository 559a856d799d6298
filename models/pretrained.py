"""Shared options of models that are read from a folder, and of those that transformers loads: adapters, dropout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.capabilities import ALL_PARTS, ModelOptions
from models.dropout import check_dropout
from models.loading.adapter import base_folder
from models.loading.backbone import load_config, quiet, without_weights
from models.loading.checks import without_head
from models.loading.folder import ModelFolder, content_files
from models.loading.gguf import ABOUT
from models.loading.layers import check_layers
from models.loading.resolve import DEFAULT_MODEL, resolve
from models.lora import LoRAConfig

if TYPE_CHECKING:
    from typing import Self  # Python 3.11


@dataclass(frozen=True)
class FolderOptions(ModelOptions):
    """Options of a model that is read from a folder, or from the hub."""

    name_or_path: str = DEFAULT_MODEL  # folder or hub id
    max_length: int | None = None  # tokens per text; None: the folder's
    trust_remote_code: bool = field(default=False, kw_only=True)  # run the Python files of this model's folder

    def __post_init__(self) -> None:
        self.check_values()

    def check_values(self) -> None:
        """Raise ValueError if one of these options has no valid value."""

    def folder(self) -> Path:
        return resolve(self.name_or_path, code=self.trust_remote_code)

    def read_folder(self) -> ModelFolder:
        """Read the description of the folder."""
        return ModelFolder.read(self.folder(), trusted=self.trust_remote_code)

    def check(self, *, needs_head: bool = False) -> None:
        """Build the model without reading its weights: that compares all that its folder brings with these options."""
        with quiet(), without_weights():
            self.build(seed=0)


@dataclass(frozen=True, kw_only=True)
class PretrainedOptions(FolderOptions):
    """Options of a model whose folder has the files of transformers."""

    dropout: float | None = None  # probability of every dropout; None: as pretrained
    attention: str | None = None  # None: the best that the model has
    packing: bool | None = None  # run the rows of a chunk as one, without padding; None: if it can
    gradient_checkpointing: bool = False  # recompute activations in backward: less memory, about a third slower
    lora: LoRAConfig | None = None  # None: all weights are trained
    split_special_tokens: bool | None = None  # read control tokens in texts as text; None: the folder's, else yes
    num_layers: int | None = None  # layers that are kept of the folder's; None: all
    kept_layers: str = "even"  # even (from the first to the last) or first

    def check_values(self) -> None:
        check_dropout(self.dropout)
        check_layers(self.num_layers, self.kept_layers)
        super().check_values()

    def check(self, *, needs_head: bool = False) -> None:
        """Build the model without reading its weights: that compares all that its folder brings, the base of an adapter
        included, with these options."""
        options: Any = self
        if getattr(self, "quantization", None) is not None:  # of weights, which are not read
            options = replace(options, quantization=None)
        with quiet(), without_weights():
            model = options.build(seed=0)
        if needs_head and model.fresh_head:
            raise self.without_head()

    def without_head(self) -> ValueError:
        """The error for a model that has no score head and is not trained."""
        folder = self.read_folder()
        return without_head(self.name_or_path, folder, load_config(base_folder(folder) or folder, embeds=True))

    def places(self) -> Mapping[str, Mapping[str, Path]]:
        """The files of the folder and, if it is an adapter, those of its base."""
        files = content_files(self.folder())
        if base := base_folder(self.read_folder()):
            files |= {f"base/{name}": file for name, file in content_files(base.path).items()}
        return {"name_or_path": files}

    def starting_from(self, folder: Path) -> Self:
        changed: Any = super().starting_from(folder)
        return replace(changed, num_layers=None)  # the export has the layers that were kept

    def splits_special_tokens(self, folder: ModelFolder) -> bool:
        """Whether control tokens that a text spells are read as text."""
        return folder.split_special_tokens if self.split_special_tokens is None else self.split_special_tokens

    @property
    def requested_dropout(self) -> float:
        """The highest dropout probability that the user has set."""
        return max(self.dropout or 0.0, self.lora.dropout if self.lora else 0.0)

    def parts_to_train(self) -> Mapping[str, str]:
        return {ALL_PARTS: "model.lora=null"} if self.lora is None else {"adapters": "model.lora"}

    def check_adapter_only(self) -> None:
        if self.lora is None:
            super().check_adapter_only()
        if self.num_layers is not None:
            raise ValueError(
                f"adapter_only=true: other libraries would load the adapter on all layers of {self.name_or_path}: "
                "leave it or model.num_layers out"
            )
        if (self.folder() / "adapter_config.json").is_file():
            raise ValueError(
                f"adapter_only=true: {self.name_or_path} is an adapter itself and cannot be the base of another one: "
                "leave it out, or start from a merged model"
            )
        if (self.folder() / ABOUT).is_file():
            raise ValueError(
                f"adapter_only=true: the base of the adapter would be the GGUF file of {self.name_or_path}, which peft "
                "and sentence-transformers cannot read: leave it out, and the whole model is exported"
            )
