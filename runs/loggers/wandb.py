"""Logging to Weights & Biases in a separate thread. It never prompts, and never stops or delays a run."""

from __future__ import annotations

import netrc
import os
import queue
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from data.progress import write_above
from engines.distributed.process_group import is_main
from runs.directory import RunDirectory
from runs.files import write_atomic
from runs.loggers.logger import Logger, NoLogger
from runs.redaction import redact_tree

PROJECT = "plackett"
OFFLINE = ("offline", "dryrun")  # modes; the second is W&B's earlier name of the first
START_TIMEOUT_S = 60.0
FINISH_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class WandbConfig:
    """Log to Weights & Biases. Its files are in the run directory's wandb/, with the id that a resumed run keeps.

    An option that is None is that of W&B's environment variable, such as WANDB_PROJECT; W&B reads the others itself.
    """

    project: str | None = None  # None: WANDB_PROJECT, else "plackett"
    entity: str | None = None  # None: WANDB_ENTITY, else that of the login
    group: str | None = None  # None: WANDB_RUN_GROUP
    tags: list[str] | None = None  # None: WANDB_TAGS, with commas
    name: str | None = None  # of the run in W&B; None: WANDB_NAME, else run_name
    mode: Literal["auto", "online", "offline"] = "auto"  # auto: WANDB_MODE, else online if logged in

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
                "puts it online",
                file=sys.stderr,
            )
        # The other ranks wait for this one, at most timeout_s.
        limit_s = min(START_TIMEOUT_S, settings.get("timeout_s", float("inf")) / 3)
        return WandbLogger(lambda: self.start(run, settings, mode, limit_s), limit_s)

    def start(self, run: RunDirectory, settings: Mapping[str, Any], mode: str, limit_s: float) -> Any:
        """Start the W&B run. This takes seconds (imports, a background process) and may raise any exception."""
        import wandb

        files_folder(run).mkdir(parents=True, exist_ok=True)  # W&B would silently choose a temporary one
        return wandb.init(
            project=self.project or os.environ.get("WANDB_PROJECT") or PROJECT,
            entity=self.entity,
            group=redact_tree(self.group),
            tags=redact_tree(self.tags),
            name=self.name or os.environ.get("WANDB_NAME") or run.name,
            id=run_id(run.wandb_id_file),
            resume="allow" if mode == "online" else None,
            dir=files_folder(run),
            mode=mode,  # type: ignore[arg-type]
            config=redact_tree(settings),
            # W&B's metadata contain the command line and the URLs of packages, which may hold secrets. Ours are in
            # environment.json, redacted.
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=limit_s,
                x_disable_meta=True,
                x_save_requirements=False,
                disable_git=True,
                disable_code=True,
            ),
        )


class WandbLogger:
    """Logs to W&B from a separate thread. An error or a delay there is reported once and does not slow down
    training."""

    def __init__(self, start: Callable[[], Any], start_timeout_s: float = START_TIMEOUT_S):
        self._jobs: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._started = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._work, args=(start,), name="wandb", daemon=True)
        self._thread.start()
        # Wait, so that the data loader's workers are not forked while W&B is imported.
        if not self._started.wait(start_timeout_s):
            self._give_up(f"it did not start in {start_timeout_s:.0f} s")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if not self._failed:
            values = {**metrics, "step": step}
            self._jobs.put(lambda run: run.log(values))

    def finish(self, summary: Mapping[str, Any], timeout_s: float = FINISH_TIMEOUT_S) -> None:
        if self._failed:
            return

        def end(run: Any) -> None:
            run.summary.update(dict(summary))
            run.finish()

        self._jobs.put(end)
        self._jobs.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._give_up(f"it did not finish in {timeout_s:.0f} s")

    def _work(self, start: Callable[[], Any]) -> None:
        try:
            run = start()
            # Use the trainer's step: W&B's own step cannot go back, and a resumed run's does.
            run.define_metric("*", step_metric="step")
            self._started.set()
            while (job := self._jobs.get()) is not None and not self._failed:
                job(run)
        except BaseException as error:  # no exception of a tracker, SystemExit included, may end the run
            self._give_up(" ".join(f"{type(error).__name__}: {error}".split()))
            self._started.set()

    def _give_up(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            write_above(f"warning: the run continues without W&B: {reason}")


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
