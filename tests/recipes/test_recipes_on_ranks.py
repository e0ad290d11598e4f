"""The recipes for launchers: on two ranks they print, once, what they print on one."""

import os
import subprocess
import sys

import pytest

from tests.recipes.test_recipes import FOLDER

ACCELERATE = ("accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1")
QUIET = ("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")


def start(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *command], env=environment, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "launcher", "package"),
    [
        ("accelerate_pcgrad.py", (*ACCELERATE, *QUIET), "accelerate"),
        ("lightning_pcgrad.py", TORCHRUN, "lightning"),
    ],
)
def test_two_ranks_print_what_one_does(recipe, launcher, package):
    pytest.importorskip(package)
    runs = [start(str(FOLDER / recipe)), start("-m", *launcher, str(FOLDER / recipe))]
    printed = []
    try:
        for run in runs:
            out, errors = run.communicate(timeout=200)
            assert run.returncode == 0, errors
            printed.append(out)
    finally:
        for run in runs:
            run.kill()
    assert printed[0].count("pairs conflict") == 1
    assert printed[1] == printed[0]
