"""python train.py [key=value …]: fit, then test the best checkpoint. The same as `vlp train`."""

import sys

try:
    from vlp.launch.main import main
except ModuleNotFoundError as error:
    sys.exit(f"{error}: vlp is not installed for {sys.executable}; in this folder: pip install -e .")

if __name__ == "__main__":
    sys.exit(main("train", sys.argv[1:]))
