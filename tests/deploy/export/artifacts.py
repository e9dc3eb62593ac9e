"""Writes an artifact of a small predictor, in a process without the test run's shape checks, which torch.export cannot follow.

python -m tests.deploy.export.artifacts FAMILY FOLDER OPTIONS       options as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def write_artifact(family: str, folder: Path, **options: Any) -> str:
    """What went wrong, in one sentence; nothing where the folder was written."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.deploy.export.artifacts",
        family,
        str(folder),
        json.dumps(options),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1] if done.returncode else ""


def main(family: str, folder: str, options: str) -> int:
    import torch

    from tests.deploy.export import tiny
    from vlp.deploy.export.export import ExportOptions, export
    from vlp.system.errors import UserError

    torch.set_num_threads(1)
    try:
        export(tiny.build(family), Path(folder), ExportOptions(**json.loads(options)))
    except UserError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
