"""The small model of the tests of whole backwards."""

import pytest
import torch

from tests.gradsurgery.reference import Model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().double()
