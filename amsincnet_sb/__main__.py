"""``python -m amsincnet_sb`` is the command ``amsincnet``."""

import sys

from amsincnet_sb.cli import main

if __name__ == "__main__":
    sys.exit(main())
