"""Weights & Biases: its options, and how a run of it is started. It never prompts."""

from __future__ import annotations

import netrc
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from engines.distributed.process_group import is_main
from runs.directory import RunDirectory
from runs.environment import PLACES, read_environment
from runs.files import write_atomic
from runs.loggers.logger import Logger, NoLogger
from runs.loggers.wandb_artifacts import Choice
from runs.loggers.wandb_logger import RunFiles, WandbLogger
from runs.redaction import redact_tree

PROJECT = "plackett"
JOB_TYPE = "train"
OFFLINE = ("offline", "dryrun")  # modes; the second is W&B's earlier name of the first
START_TIMEOUT_S = 60.0
FLUSH_S = 1.0  # a run that is killed loses what was logged so shortly before; resumed, it logs it again
TIMEOUT_S = 1800.0  # timeout_s of settings that have none


@dataclass(frozen=True)
class WandbConfig:
    """Log to Weights & Biases. Its files are in the run directory's wandb/, with the id that a resumed run keeps.

    An option that is None is that of W&B's environment variable, such as WANDB_PROJECT; W&B reads the others itself.
    """

    project: str | None = None  # None: WANDB_PROJECT, else "plackett"
    entity: str | None = None  # None: WANDB_ENTITY, else that of the login
    group: str | None = None  # None: WANDB_RUN_GROUP
    job_type: str | None = None  # None: WANDB_JOB_TYPE, else "train"
    tags: list[str] | None = None  # None: WANDB_TAGS, with commas
    name: str | None = None  # of the run in W&B; None: WANDB_NAME, else run_name
    notes: str | None = None  # None: WANDB_NOTES
    mode: Literal["auto", "online", "offline"] = "auto"  # auto: WANDB_MODE, else online if logged in
    artifacts: Choice = "none"  # what is uploaded when the run is finished

    def build(self, run: RunDirectory, settings: Mapping[str, Any]) -> Logger:
        if not is_main():
            return NoLogger()
        mode = (
            os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
            if self.mode == "auto"
            else self.mode
        )
        if mode in OFFLINE:
            folder = files_folder(run) / "wandb"
            print(
                f"W&B is offline: `wandb login` before a run, or `wandb sync {folder}/offline-run-*` after it, "
                "puts it online (a run that was resumed has several folders, which become one run)",
                file=sys.stderr,
            )
        # The other ranks wait for this one, at most timeout_s.
        timeout_s = settings.get("timeout_s", TIMEOUT_S)
        return WandbLogger(
            lambda: self.start(run, settings, mode, min(START_TIMEOUT_S, timeout_s / 3)),
            RunFiles(run.path, settings, self.artifacts, files_folder(run) / "wandb"),
            start_timeout_s=min(START_TIMEOUT_S, timeout_s / 3),
            upload_timeout_s=timeout_s / 2,
        )

    def start(self, run: RunDirectory, settings: Mapping[str, Any], mode: str, limit_s: float) -> Any:
        """Start the W&B run. This takes seconds (imports, a background process) and may raise any exception."""
        import wandb

        files_folder(run).mkdir(parents=True, exist_ok=True)  # W&B would silently choose a temporary one
        return wandb.init(
            project=self.project or os.environ.get("WANDB_PROJECT") or PROJECT,
            entity=self.entity,
            group=redact_tree(self.group),
            job_type=self.job_type or os.environ.get("WANDB_JOB_TYPE") or JOB_TYPE,
            tags=redact_tree(self.tags),
            name=self.name or os.environ.get("WANDB_NAME") or run.name,
            notes=redact_tree(self.notes),
            id=run_id(run.wandb_id_file),
            resume="allow",  # offline, `wandb sync` then appends to what it has sent of this id
            dir=files_folder(run),
            mode=mode,  # type: ignore[arg-type]
            config=config_of(run.path, settings),
            # W&B's metadata contain the command line and the URLs of packages, which may hold secrets. Ours are in
            # environment.json, redacted.
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=limit_s,
                x_transaction_log_flush_interval=FLUSH_S,
                x_disable_meta=True,
                x_save_requirements=False,
                disable_git=True,
                disable_code=True,
            ),
        )


def config_of(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """W&B's config of a run: its settings, the hash of the code, the hashes of data and models, and the environment,
    without secrets."""
    environment = read_environment(folder)
    content = {
        **settings,
        "code_hash": environment.pop("code_hash", None),
        "content_hashes": {"data": environment.pop("data", None), **environment.pop(PLACES, {})},
        "environment": environment,
    }
    redacted: dict[str, Any] = redact_tree(content)
    return redacted


def logged_in() -> bool:
    """Whether W&B has credentials. It is not imported, and nothing is asked or sent."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    files = [Path(os.environ["NETRC"])] if "NETRC" in os.environ else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        try:
            if file.is_file() and netrc.netrc(file).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def files_folder(run: RunDirectory) -> Path:
    """The folder below which W&B makes wandb/ for its files: WANDB_DIR, else the run directory."""
    return Path(os.environ.get("WANDB_DIR") or run.path)


def run_id(file: Path) -> str:
    """The W&B id stored in `file`, created at the first call, so that a resumed run is the same run in W&B. A new one
    is WANDB_RUN_ID, which an agent of W&B's sweeps sets, or random."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, (os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)) + "\n")
    return file.read_text().strip()
