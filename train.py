"""python train.py [key=value …]: fit, then test the best checkpoint. The same as `vlp train`."""

import sys

try:
    import hydra  # noqa: F401  # a dependency: vlp itself is found in this folder by any Python

    from vlp.cli import run_hydra_command
except ModuleNotFoundError as error:
    sys.exit(f"{error}: vlp is not installed for {sys.executable}; in this folder: pip install -e .")

if __name__ == "__main__":
    sys.exit(run_hydra_command("train", sys.argv[1:]))
