"""Writes killed at random moments, a few of them; ``make kills`` makes twenty, and twenty of a run."""

import random

from tests.minbert_multitask import kills


def test_a_write_that_is_killed_leaves_one_whole_file(tmp_path):
    assert kills.killed_writes(tmp_path, 3, random.Random(0)) > 0
