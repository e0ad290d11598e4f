"""``python -m minbert_multitask``, the same as the console script ``minbert``."""

import sys


def main() -> int:
    """Runs the command line; an interrupt while torch is imported is one like any other."""
    try:
        from .cli import main as run  # noqa: PLC0415

        return run()
    except KeyboardInterrupt:
        print("minbert: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
