"""python train.py [key=value …]: fit, then test the best checkpoint. The same as `vlp train`."""

import sys

from vlp.launch.main import main

if __name__ == "__main__":
    sys.exit(main("train", sys.argv[1:]))
