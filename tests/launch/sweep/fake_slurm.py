"""A Slurm of five small programs for one machine: sbatch, srun, sacct, scontrol and scancel, as submitit calls them."""

from __future__ import annotations

import sys
from pathlib import Path

# what they share: a folder with the script of each task, the number of its process, and every call
PROGRAM = """#!{python}
import os, re, signal, subprocess, sys, time
from pathlib import Path
spool, name, arguments = Path({spool!r}), Path(sys.argv[0]).name, sys.argv[1:]
with open(spool / "calls", "a") as stream:
    stream.write(" ".join([name, *arguments]) + "\\n")

def launch(task, script):
    array, _, number = task.partition("_")
    own = {{"SLURM_JOB_ID": array, "SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "1",
           "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}}
    if number:
        own |= {{"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": number}}
    log = open(spool / f"{{task}}.log", "a")
    process = subprocess.Popen(["bash", script], env=os.environ | own, stdout=log, stderr=log, start_new_session=True)
    (spool / task).write_text(f"{{process.pid}} {{script}}")

def running(task):
    pid = int((spool / task).read_text().split()[0])
    try:
        return Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

if name == "sbatch":
    script = arguments[-1]
    found = re.search(r"--array=(\\d+)-(\\d+)", Path(script).read_text())
    count = (spool / "calls").read_text().count("sbatch")  # ids 77, 78, …
    array = str(76 + count)
    for task in [f"{{array}}_{{i}}" for i in range(int(found[1]), int(found[2]) + 1)] if found else [array]:
        launch(task, script)
    print(f"Submitted batch job {{array}}")
elif name == "srun":
    while arguments[0].startswith("-"):
        del arguments[: 1 if "=" in arguments[0] or arguments[0] == "--unbuffered" else 2]
    os.execvp(arguments[0], arguments)
elif name == "sacct":
    print("JobID|State|NodeList")
    for file in spool.glob("7*"):
        if not file.suffix:
            print(f"{{file.name}}|{{'RUNNING' if running(file.name) else 'COMPLETED'}}|here")
elif name == "scontrol" and arguments[0] == "requeue":
    launch(arguments[1], (spool / arguments[1]).read_text().split(" ", 1)[1])
elif name == "scontrol" and arguments[:2] == ["show", "hostnames"]:
    print("here")
"""


def install(folder: Path) -> tuple[Path, Path]:
    """The folder for PATH, and that in which the calls are written down."""
    bin_folder, spool = folder / "bin", folder / "spool"
    for made in (bin_folder, spool):
        made.mkdir()
    for name in ("sbatch", "srun", "sacct", "scontrol", "scancel"):
        (bin_folder / name).write_text(PROGRAM.format(python=sys.executable, spool=str(spool)))
        (bin_folder / name).chmod(0o755)
    return bin_folder, spool
