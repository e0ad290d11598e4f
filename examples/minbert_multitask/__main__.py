"""``python -m minbert_multitask``, the same as the console script ``minbert``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
