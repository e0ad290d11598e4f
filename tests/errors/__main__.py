"""Writes the golden file anew: python -m tests.errors; then read its diff as a user would."""

import tempfile
from pathlib import Path

from tests.errors.messages import GOLDEN, messages

with tempfile.TemporaryDirectory() as folder:
    GOLDEN.write_text("\n".join(messages(Path(folder).resolve())) + "\n", encoding="utf-8")
