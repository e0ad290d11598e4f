"""The small model of the tests of whole backwards; the kernel in C, where there is a compiler."""

import functools
import shutil

import pytest
import torch

from gradsurgery import kernels
from tests.gradsurgery.reference import Model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().double()


@pytest.fixture
def compiled(monkeypatch):
    """The kernel in C is there, and used, in this test alone."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    monkeypatch.setattr(kernels, "_loaded", _library())


@functools.cache
def _library():
    kernels.compile_kernels()
    return [kernels._loaded.pop()]
