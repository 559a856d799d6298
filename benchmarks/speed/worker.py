"""The process of one side, started by benchmarks/speed/turns.py: python -m benchmarks.speed.worker SIDE SETTING FOLDER

SIDE may be `texts`: it writes the texts of the setting, which both sides read, and ends.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.speed.kinds import KINDS
from benchmarks.speed.setting import Job, Setting
from benchmarks.speed.turns import TEXTS, Turns


def main() -> None:
    side, setting, folder = sys.argv[1], Setting.from_json(sys.argv[2]), Path(sys.argv[3])
    with os.fdopen(os.dup(1), "w") as answers, tempfile.TemporaryDirectory() as scratch:
        os.dup2(2, 1)  # what libraries print goes to the log
        job, kind = Job(side, setting, folder, Path(scratch)), KINDS[setting.kind]
        if side == TEXTS:
            part = job.texts_file.with_suffix(".part")
            part.write_text(json.dumps(kind.make_texts(job)))
            part.rename(job.texts_file)
            answers.write("{}\n")
        else:
            kind.run(job, Turns(setting, sys.stdin, answers))


if __name__ == "__main__":
    main()
