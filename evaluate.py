"""python evaluate.py checkpoint=PATH [data=…] [task=[…]]: measure a checkpoint. The same as `vlp evaluate`."""

import sys

try:
    from vlp.launch.main import main
except ModuleNotFoundError as error:
    sys.exit(f"{error}: vlp is not installed for {sys.executable}; in this folder: pip install -e .")

if __name__ == "__main__":
    sys.exit(main("evaluate", sys.argv[1:]))
