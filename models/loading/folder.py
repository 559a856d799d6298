"""Read the description of a model folder from the files of transformers and sentence-transformers (old and new)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json")

STATIC = "StaticEmbedding"  # the module of a table of token vectors
OF_KIND = {  # what reads them here
    "SparseEncoder": "sparse_encoder",
    "MultiVectorEncoder": "late_interaction",
    "ColBERT": "late_interaction",  # of PyLate
}
MODEL2VEC = "model2vec"  # of config.json: such a table, perhaps without a modules.json

PICKLED = " (pickled weights are not read: convert them)"
CONTENT_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".safetensors", ".py", ".npy")
NO_CONTENT = re.compile(r"(^|/)(\.|onnx/|openvino/|[^/]*checkpoint[^/]*/|(trainer_state|golden)\.json$)")

# Keys of config_sentence_transformers.json that other libraries do not read.
DOCUMENT_PROMPT = "document_prompt"
SPLIT_SPECIAL_TOKENS = "split_special_tokens"


def first_line(error: BaseException) -> str:
    """The first line of a library's error message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def read_json(file: Path) -> Any:
    """The file's content; None if it does not exist. Raises ValueError naming the file, and its line, if not JSON."""
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not valid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start:,})") from error


@lru_cache
def sha256(file: Path) -> str:
    """The hash of a file of weights."""
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_files(path: Path) -> dict[str, Path]:
    """The files of a model folder that loading may read, by their names below it: not its card, its checkpoints and
    the weights of other runtimes."""
    files = {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.suffix in CONTENT_SUFFIXES}
    return {name: file for name, file in files.items() if file.is_file() and not NO_CONTENT.search(name)}


def missing_files(path: Path) -> list[str]:
    """The required files that a model folder lacks, in words for an error message; empty if none is missing."""
    return [name for route in ModelFolder.read(path).routes().values() for name in _missing_of(route)]


def _missing_of(route: ModelFolder) -> list[str]:
    if not route.is_static:
        return _missing_of_backbone(route.backbone)
    missing = [name for name in ("model.safetensors", "tokenizer.json") if not (route.backbone / name).is_file()]
    return [name + PICKLED * any(route.backbone.glob("*.bin")) * (name in WEIGHTS) for name in missing]


def _missing_of_backbone(backbone: Path) -> list[str]:
    if (backbone / "adapter_config.json").is_file():
        pickled = (backbone / "adapter_model.bin").is_file()
        name = "adapter_model.safetensors" + PICKLED * pickled
        return [] if (backbone / "adapter_model.safetensors").is_file() else [name]
    missing = [] if (backbone / "config.json").is_file() else ["config.json"]
    if not any((backbone / name).is_file() for name in WEIGHTS):
        pickled = any(backbone.glob("pytorch_model*.bin"))
        missing.append("model.safetensors" + PICKLED * pickled)
    if not has_tokenizer(backbone):
        missing.append("tokenizer.json")
    return missing


def has_tokenizer(backbone: Path) -> bool:
    """Whether the folder has the files of a tokenizer."""
    return any((backbone / name).is_file() for name in TOKENIZERS)


@dataclass(frozen=True)
class ModelFolder:
    """The description of a model folder beside the weights: modules, prompts, activation, lengths."""

    path: Path
    modules: list[tuple[str, Path]]  # modules.json: (class name, folder) in order; empty without the file
    kind: str  # "CrossEncoder", "SentenceTransformer", ...; "" for a plain transformers folder
    settings: dict[str, Any]  # config_sentence_transformers.json
    transformer: dict[str, Any]  # sentence_bert_config.json
    trusted: bool = False  # whether its Python files may be run (model.trust_remote_code)

    @classmethod
    def read(cls, path: Path, *, trusted: bool = False) -> ModelFolder:
        entries = read_json(path / "modules.json") or []
        modules = [(entry["type"].rsplit(".", 1)[-1], path / entry["path"]) for entry in entries]
        settings = read_json(path / "config_sentence_transformers.json") or {}
        kind = settings.get("model_type", "SentenceTransformer") if modules else ""
        backbone = modules[0][1] if modules else path
        return cls(path, modules, kind, settings, _transformer_settings(backbone) if modules else {}, trusted)

    def routes(self) -> dict[str, ModelFolder]:
        """The folder itself as {"": folder}, or for a Router the modules of each task ("query", "document")."""
        if not self.modules or self.modules[0][0] not in ("Router", "Asym"):
            return {"": self}
        root = self.modules[0][1]
        config = read_json(root / "router_config.json") or read_json(root / "config.json") or {}
        types, found = config.get("types", {}), {}
        for route, names in config.get("structure", {}).items():
            if any(name not in types for name in names) or not names:
                raise ValueError(f"{root / 'router_config.json'}: route {route} names modules that have no type")
            modules = [(types[name].rsplit(".", 1)[-1], root / name) for name in names] + self.modules[1:]
            found[route] = replace(self, modules=modules, transformer=_transformer_settings(modules[0][1]))
        if set(found) != {"query", "document"}:
            raise ValueError(
                f"model {self.path} routes {', '.join(found) or 'nothing'}; supported are query and document"
            )
        return found

    @property
    def backbone(self) -> Path:
        """The folder of config.json, weights and tokenizer (a subfolder in old sentence-transformers models)."""
        return self.modules[0][1] if self.modules else self.path

    @property
    def is_static(self) -> bool:
        """Whether it begins with a table of token vectors, which has no transformer: of two routes, both."""
        routes = self.routes().values()
        if any(route.modules for route in routes):
            return all(route.modules[0][0] == STATIC for route in routes)
        return (read_json(self.path / "config.json") or {}).get("model_type") == MODEL2VEC

    @property
    def has_transformer(self) -> bool:
        """Whether its first module, that of either route if it has two, is a transformer."""
        return not self.is_static

    @property
    def max_length(self) -> int | None:
        """The maximum tokens per row in the file of sentence-transformers; None if it has none."""
        options = self.transformer.get("processor_kwargs") or self.transformer.get("tokenizer_args") or {}
        return options.get("model_max_length", self.transformer.get("max_seq_length"))

    @property
    def prompts(self) -> dict[str, str]:
        return {name: text or "" for name, text in (self.settings.get("prompts") or {}).items()}

    @property
    def document_prompt(self) -> str:
        """The prompt before a reranker's documents."""
        return str(self.settings.get(DOCUMENT_PROMPT) or "")

    @property
    def split_special_tokens(self) -> bool:
        """Whether the model was trained with the control tokens that texts spell read as text; if the folder says
        nothing, they are."""
        return self.settings.get(SPLIT_SPECIAL_TOKENS) is not False


def _transformer_settings(backbone: Path) -> dict[str, Any]:
    # Old folders name this file after the architecture: sentence_roberta_config.json, ...
    files = [backbone / "sentence_bert_config.json", *sorted(backbone.glob("sentence_*_config.json"))]
    return next((content for file in files if (content := read_json(file))), {})
