"""python evaluate.py checkpoint=PATH [data=…] [task=[…]]: measure a checkpoint. The same as `vlp evaluate`."""

import sys

from vlp.launch.main import main

if __name__ == "__main__":
    sys.exit(main("evaluate", sys.argv[1:]))
