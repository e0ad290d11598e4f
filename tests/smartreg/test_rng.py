"""The generators' state, captured and replayed."""

import pytest
import torch

from smartreg import RNGState


def test_a_replay_repeats_and_leaves_no_trace():
    before = RNGState.capture()
    first = torch.rand(3)
    expected = RNGState.capture()
    with before.replay():
        again = torch.rand(3)
        torch.rand(100)
    assert torch.equal(first, again)
    assert torch.equal(expected.cpu, RNGState.capture().cpu)


def test_a_replay_that_fails_leaves_no_trace_either():
    before = RNGState.capture()
    torch.rand(3)
    expected = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), before.replay():
        _ = torch.rand(1) * (1 / 0)
    assert torch.equal(expected, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replay_covers_every_cuda_device():
    torch.rand(1, device="cuda")
    before = RNGState.capture()
    first = torch.rand(3, device="cuda")
    with before.replay():
        assert torch.equal(first, torch.rand(3, device="cuda"))
    assert not torch.equal(first, torch.rand(3, device="cuda"))


def test_other_devices_are_refused():
    RNGState.check_device(torch.device("cpu"))
    RNGState.check_device(torch.device("cuda:1"))
    with pytest.raises(ValueError, match="got meta: take dropout='independent'"):
        RNGState.check_device(torch.device("meta"))
