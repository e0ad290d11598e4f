"""Settings that make no sense are refused in one sentence: the setting, its value and what to give."""

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask.settings import Settings


def test_the_defaults_are_the_papers():
    settings = Settings()
    assert (settings.epochs, settings.iterations, settings.batch_size) == (10, 755, 8)
    assert (settings.lr, settings.seed, settings.layers) == (1e-5, 11711, None)
    assert (settings.device, settings.precision) == ("auto", "fp32")


POSITIVE = ("epochs", "iterations", "batch_size", "eval_batch_size", "layers")
NOT_NEGATIVE = ("seed", "train_eval_size", "probe_every", "checkpoint_every")


@pytest.mark.parametrize(("names", "least"), [(POSITIVE, 1), (NOT_NEGATIVE, 0)])
@given(number=st.integers(-5, 5))
def test_whole_numbers_are_taken_from_their_least_on(names, least, number):
    for name in names:
        if number >= least:
            assert getattr(Settings(**{name: number}), name) == number
        else:
            with pytest.raises(
                ValueError, match=f"^{name} must be a whole number of at least {least}, got {number}$"
            ):
                Settings(**{name: number})


@pytest.mark.parametrize("name", POSITIVE + NOT_NEGATIVE)
@pytest.mark.parametrize("value", [1.5, 3.0, math.nan, "3", True])
def test_what_is_no_whole_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least [01], got {value!r}$"):
        Settings(**{name: value})


@pytest.mark.parametrize("name", [name for name in POSITIVE + NOT_NEGATIVE if name != "layers"])
def test_only_layers_may_be_left_open(name):
    with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least [01], got None$"):
        Settings(**{name: None})
    assert Settings(layers=None).layers is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": -1e-5}, "lr must be a positive number, got -1e-05"),
        ({"lr": math.nan}, "lr must be a positive number, got nan"),
        ({"lr": math.inf}, "lr must be a positive number, got inf"),
        ({"lr": "1e-5"}, "lr must be a positive number, got '1e-5'"),
        (
            {"seed": 1 << 63},
            r"seed must be below 2\^63, which torch's generators can hold, got 9223372036854775808",
        ),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"device": "CPU"}, "device must be one of auto, cpu, cuda, got 'CPU'"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, got 'fp8'"),
    ],
)
def test_bad_settings_name_the_setting_the_value_and_the_remedy(setting, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Settings(**setting)


def test_the_largest_seed_is_one_that_torch_takes():
    seed = Settings(seed=(1 << 63) - 1).seed
    assert torch.Generator().manual_seed(seed).initial_seed() == seed
    torch.manual_seed(seed)


def test_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"^device 'cuda' was asked for but torch sees none; choose 'cpu' or 'auto'$"
    ):
        Settings(device="cuda")
    assert Settings(device="auto").torch_device() == torch.device("cpu")
    assert Settings(device="cpu").torch_device() == torch.device("cpu")


def test_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Settings(device="cuda").torch_device() == torch.device("cuda")
    assert Settings(device="auto").torch_device() == torch.device("cuda")
    assert Settings(device="cpu").torch_device() == torch.device("cpu")


OTHER = {
    "weights": "another",
    "layers": 2,
    "epochs": 11,
    "iterations": 3,
    "batch_size": 3,
    "lr": 1e-3,
    "seed": 3,
    "device": "cpu",
    "precision": "bf16",
    "eval_batch_size": 3,
    "train_eval_size": 3,
    "probe_every": 3,
    "checkpoint_every": 3,
    "packed": True,
}


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_a_resumed_run_may_change_only_what_changes_no_result(name):
    changed = replace(Settings(), **{name: OTHER[name]})
    assert (changed.what_decides() == Settings().what_decides()) == (name in ("device", "checkpoint_every"))
