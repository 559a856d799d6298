"""Read an adapter that peft, transformers or sentence-transformers has saved: its task, its base, its weights."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, TrainableTokensWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from models.loading.backbone import embedding_rows, loading_error, quiet
from models.loading.folder import ModelFolder, first_line, read_json
from models.loading.resolve import resolve

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base_model_name_or_path"
PREFIX = "base_model.model."  # of the names in the file of weights
# With bias="all" peft also writes the biases of a saved head by these names, and does not read them.
_INSIDE_SAVED = re.compile(r"\.(original_module|modules_to_save)\.")
MERGE = "merge it into its base (merge_and_unload of peft) and give the folder of the merged model"
REMEDIES = {  # task_type -> what the adapter is, and what reads it
    "CAUSAL_LM": "an adapter of a language model: choose model=llm_reranker model.template=NAME (launch/rerank.py: "
    "--template NAME)",
    "SEQ_CLS": "an adapter of a classifier: choose model=cross_encoder",
    "FEATURE_EXTRACTION": "an adapter of an embedding model: choose model=bi_encoder",
}


@dataclass(frozen=True)
class SavedAdapter:
    """The adapter in a model folder, and the folder of its base."""

    folder: ModelFolder
    base: ModelFolder

    @classmethod
    def read(cls, folder: ModelFolder, *, tasks: Collection[str], kind: str) -> SavedAdapter | None:
        """Read the adapter of `folder`; None if the folder has none.

        `tasks`: the values of task_type that fit the model, beside none at all; a folder of sentence-transformers that
        says that it is a `kind` may have any. Raises FileNotFoundError or ValueError, naming the file and its key, if
        the adapter is of another task, cannot be merged, or has no base that can be found.
        """
        file = folder.backbone / CONFIG
        config = read_json(file)
        if config is None:
            return None
        task = config.get("task_type")
        if task not in (None, *tasks) and folder.kind != kind:
            what = REMEDIES.get(task, f"an adapter of another task than {' or '.join(tasks)}")
            raise ValueError(f"{file}: task_type={task}, {what}; or {MERGE}")
        base = base_folder(folder)
        assert base is not None
        _check_can_merge(file)
        return cls(folder, base)

    def merge_into(self, backbone: PreTrainedModel) -> tuple[PreTrainedModel, frozenset[str]]:
        """Merge the adapter into the model of its base, so that training can continue with full weights or with a new
        adapter. Also returns the names of the weights that the adapter holds as a whole, as those of a head.

        What was trainable in `backbone` still is: peft freezes all weights, those of a saved head too, before it
        merges. An output head that shares its weight with the input embeddings gets its own if either of them has a
        layer of the adapter. Raises ValueError if the adapter's weights do not fit.
        """
        trains = {name: parameter.requires_grad for name, parameter in backbone.named_parameters()}
        state = self._read_weights(backbone)
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # without weights (launch/plan.py) nothing is copied
            config = PeftConfig.from_pretrained(str(self.folder.backbone))
            config.task_type = None  # the classes of the tasks do not fit every backbone; the weights are the same
            tied = _tied_embeddings(backbone)
            wrapped = self._wrap(backbone, config)
            self._load(wrapped, state)
            untied = tied is not None and _untie_adapted(wrapped, *tied)
            merged: Any = wrapped.merge_and_unload()
        if untied:
            _say_that_untied(merged.config)
        for name, parameter in merged.named_parameters():
            parameter.requires_grad_(trains.get(name, True))  # True: the adapter has untied it from another weight
        return merged, frozenset(key.removeprefix(PREFIX) for key in state) & trains.keys()

    def _read_weights(self, backbone: PreTrainedModel) -> dict[str, Tensor]:
        """The adapter's weights by the names that peft gives them around `backbone`, which gets as many embeddings as
        the adapter has."""
        try:
            state = load_file(self.folder.backbone / WEIGHTS)
        except SafetensorError as error:
            raise loading_error(self.folder, error) from error
        state = {PREFIX + _name_in(backbone, key.removeprefix(PREFIX)): value for key, value in state.items()}
        embeddings = backbone.get_input_embeddings()
        name = next((name for name, module in backbone.named_modules() if module is embeddings), "")
        rows = state.get(f"{PREFIX}{name}.weight")
        if rows is not None and len(rows) != embedding_rows(backbone):
            with quiet():
                backbone.resize_token_embeddings(len(rows), mean_resizing=False)
        self._check_shapes(backbone, state)
        return state

    def _check_shapes(self, backbone: PreTrainedModel, state: Mapping[str, Tensor]) -> None:
        for name, parameter in backbone.named_parameters():
            found = state.get(PREFIX + name)
            if found is None or found.shape == parameter.shape:
                continue
            file, inside = self.folder.backbone, f"{backbone.base_model_prefix}."
            if backbone.config.num_labels == 1 != len(found) and not name.startswith(inside):
                raise ValueError(
                    f"{file / CONFIG}: the modules_to_save hold a score head of {len(found)} labels ({name}); a "
                    f"reranker has one: choose another adapter, or train a reranker from the base"
                )
            raise ValueError(
                f"{file / WEIGHTS}: {name} has the shape {tuple(found.shape)}, in the base {tuple(parameter.shape)}: "
                f"{self._other_base}"
            )

    def _wrap(self, backbone: PreTrainedModel, config: PeftConfig) -> PeftModel:
        try:
            wrapped = get_peft_model(backbone, config)
        except ValueError as error:  # layers that the base does not have
            raise ValueError(f"{self.folder.backbone / CONFIG}: {first_line(error)}: {self._other_base}") from error
        assert isinstance(wrapped, PeftModel)
        return wrapped

    def _load(self, wrapped: PeftModel, state: dict[str, Tensor]) -> None:
        """Load the weights. Raises ValueError if any of them, or of the adapter's own layers, finds no counterpart."""
        try:
            result: Any = set_peft_model_state_dict(wrapped, state)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ValueError(f"{self.folder.backbone / WEIGHTS}: {lines[-1]}: {self._other_base}") from error
        unexpected = [key for key in result.unexpected_keys if _INSIDE_SAVED.sub(".", key) not in state]
        unread = unexpected + [key for key in result.missing_keys if ".lora_" in key]
        if unread:
            raise ValueError(
                f"{self.folder.backbone / WEIGHTS}: {len(unread)} of its tensors do not belong to the layers of the "
                f"base {self.base.path}, as {unread[0]}: {self._other_base}"
            )

    @property
    def _other_base(self) -> str:
        return f"set {BASE} in {CONFIG} to the model that it was trained on"


def base_folder(folder: ModelFolder) -> ModelFolder | None:
    """The folder of the base of the adapter in `folder`; None if there is no adapter.

    Raises FileNotFoundError or ValueError, naming the file and its key, if it has no base that can be found.
    """
    file = folder.backbone / CONFIG
    config = read_json(file)
    if config is None:
        return None
    name, remedy = config.get(BASE), "write the folder or hub id of the model that the adapter was trained on there"
    if not isinstance(name, str) or not name:
        raise ValueError(f"{file}: {BASE} is {json.dumps(name)}: {remedy}")
    try:
        path = resolve(name)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{file}: {BASE}={name} is not there: {remedy} ({first_line(error)})") from error
    if (ModelFolder.read(path).backbone / CONFIG).is_file():
        raise ValueError(f"{file}: {BASE}={name} is an adapter itself: merge that into its own base first")
    return ModelFolder.read(path)


def _check_can_merge(file: Path) -> None:
    """Raise ValueError if peft cannot read the configuration, or cannot merge what it describes."""
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # options of a newer peft that this one does not know
            config = PeftConfig.from_pretrained(str(file.parent))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: peft cannot read it: {first_line(error)}") from error
    if config.is_prompt_learning or config.peft_type == "ADAPTION_PROMPT":
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise ValueError(f"{file}: peft_type={kind} cannot be merged into its base: give an adapter of LoRA")


def _tied_embeddings(model: PreTrainedModel) -> tuple[str, str] | None:
    """The names of the input embeddings and of the output head if they share one weight, else None."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is not getattr(embeddings, "weight", head):
        return None
    names = {id(module): name for name, module in model.named_modules()}
    return names[id(embeddings)], names[id(head)]


def _untie_adapted(wrapped: PeftModel, embeddings: str, head: str) -> bool:
    """Give `head` its own copy of the weight that it shares with `embeddings`, if either has a layer of the adapter:
    merged into the shared weight, the layer would change both. Returns whether it has.

    Trained tokens are those of both, by the adapter's definition, and stay so.
    """
    model = wrapped.get_base_model()
    adapted = [model.get_submodule(name) for name in (embeddings, head)]
    adapted = [module for module in adapted if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    if not adapted or (len(adapted) == 2 and all(isinstance(module, TrainableTokensWrapper) for module in adapted)):
        return False
    shared = set(model.get_submodule(embeddings).parameters()) & set(model.get_submodule(head).parameters())
    for weight in shared:
        own = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
        for module in model.get_submodule(head).modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter is weight:
                    module._parameters[name] = own
    return True


def _say_that_untied(config: PretrainedConfig) -> None:
    """Write into the configuration that head and embeddings have different weights, so that loading does not tie
    them."""
    for one in (config, config.get_text_config()):
        one.tie_word_embeddings = False


def _name_in(backbone: PreTrainedModel, name: str) -> str:
    """The name of a weight in `backbone`: an encoder's have a prefix inside a classifier (`bert.`), and none alone."""
    prefix, root = f"{backbone.base_model_prefix}.", name.partition(".")[0]
    if hasattr(backbone, root):
        return name
    inside = name.removeprefix(prefix) if backbone.base_model is backbone else prefix + name
    parent = backbone if backbone.base_model is backbone else backbone.base_model
    return inside if hasattr(parent, inside.removeprefix(prefix).partition(".")[0]) else name
