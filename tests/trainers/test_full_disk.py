"""A disk that fills up while a checkpoint is written: one clear line, and what was saved before serves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import make_trainer, metrics_of, run_to_the_end

SIZE_BYTES = 4 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of SIZE_BYTES."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("background", ["false", "true"])
def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on_from_it(
    background: str, tiny_run: list[str], small_disk: Path
) -> None:
    settings = [*tiny_run, "+exp=reranker_contrastive", "trainer.max_steps=6", "trainer.save_every=2"]
    settings += ["trainer.eval_every=100", f"trainer.async_save={background}"]
    whole = run_to_the_end([*settings, "run_name=whole"])
    settings += [f"output_dir={small_disk}"]
    trainer = make_trainer(settings)
    save = trainer.save

    def save_on_what_is_left(*, best: bool = False) -> None:
        if trainer.state.step == 4:
            trainer.checkpoints.wait()
            free = os.statvfs(small_disk)
            (small_disk / "ballast").write_bytes(b"0" * (free.f_bavail * free.f_frsize - 50_000))
        save(best=best)

    trainer.save = save_on_what_is_left
    with pytest.raises(
        OSError, match=r"step 4 could not be written .*No space left.*: those before it in .* are intact"
    ) as e:
        trainer.fit()
    assert "\n" not in str(e.value)
    left = sorted(path.name for path in trainer.run.checkpoints.iterdir())
    assert left == ["best", "latest", "step-000000", "step-000002"]
    (small_disk / "ballast").unlink()
    again = make_trainer(settings)
    assert again.run.checkpoint[1].step == 2
    again.fit()
    assert metrics_of(again) == whole[0]
