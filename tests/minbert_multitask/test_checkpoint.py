"""Checkpoints: equal to the bit when read back, whole or the former one, and never run."""

import pickle
import pickletools
import random
import warnings
import zipfile
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from minbert_multitask import checkpoint

# States as a training loop has them: nested dicts and lists, numbers, strings, None, tensors of all kinds.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8")),
)
TENSORS = st.builds(
    lambda values, dtype: torch.tensor(values).to(dtype),
    st.lists(st.floats(0, 100, width=32), max_size=4),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
)
KEYS = st.text(st.characters(codec="utf-8"), max_size=4)
VALUES = st.recursive(
    SCALARS | TENSORS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def equal(a, b):
    """Equal to the bit, NaN included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints") / "checkpoint.pt"


@settings(max_examples=60)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_a_state_is_read_back_equal(shared, state):
    checkpoint.save(state, shared)
    assert equal(checkpoint.load(shared), state)


def trained():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "losses": [0.5, 1.25],
    }


def test_a_trained_model_and_its_optimizer_are_read_back_onto_the_cpu(tmp_path):
    state = trained()
    checkpoint.save(state, tmp_path / "checkpoint.pt")
    found = checkpoint.load(tmp_path / "checkpoint.pt")
    assert found["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    for index, moments in state["optimizer"]["state"].items():
        assert equal(found["optimizer"]["state"][index], moments)
    assert equal(dict(found["model"]), dict(state["model"]))
    assert found["model"]["weight"].device == torch.device("cpu")


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save({"epoch": 1}, path)
    with (
        patch("os.fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match="No space"),
    ):
        checkpoint.save({"epoch": 2}, path)
    assert checkpoint.load(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


# Files that are no checkpoints

REFUSED = "is truncated or no checkpoint of this program; delete it to begin anew"


class Hostile:
    """Pickled, it is a call that leaves a file behind."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("form", ["torch", "bare pickle", "among plain state"])
def test_a_file_that_holds_code_is_refused_and_does_not_run(tmp_path, form):
    path, witness = tmp_path / "checkpoint.pt", tmp_path / "ran"
    hostile = Hostile(witness)
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(hostile, protocol=2))
    else:
        torch.save(hostile if form == "torch" else {"epoch": 1, "model": hostile}, path)
    with pytest.raises(ValueError, match=REFUSED) as caught:
        checkpoint.load(path)
    assert str(caught.value).startswith(str(path))
    assert not witness.exists()
    torch.load(path, weights_only=False) if form != "bare pickle" else pickle.loads(path.read_bytes())
    assert witness.exists()  # so the file was dangerous


def test_the_pickle_of_a_checkpoint_names_nothing_but_tensors(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(trained(), path)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    names = {argument for opcode, argument, _ in pickletools.genops(pickled) if opcode.name == "GLOBAL"}
    assert {name.split(".")[0].split()[0] for name in names} == {"torch", "collections"}


def test_a_checkpoint_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(trained(), path)
    content = path.read_bytes()
    for cut in [*range(64), *range(64, len(content), 61), len(content) - 1]:
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=REFUSED):
            checkpoint.load(path)


def test_any_bytes_are_a_state_or_one_line(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(trained(), path)
    content = path.read_bytes()
    dice, refused = random.Random(0), 0
    for trial in range(300):
        damaged = bytearray(content)
        if trial % 3 == 0:  # a file of another kind
            damaged = bytearray(dice.randbytes(dice.randrange(60)))
        else:  # the pickle at the front, overwritten
            for _ in range(dice.randrange(1, 6)):
                damaged[dice.randrange(1500)] = dice.randrange(256)
        path.write_bytes(damaged)
        message = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wonders about odd pickles
            try:
                checkpoint.load(path)
            except ValueError as error:
                message = str(error)
        if message is not None:
            assert message.startswith(str(path))
            assert "\n" not in message
            refused += 1
    assert refused > 150


@pytest.mark.parametrize(("content", "kind"), [([1, 2], "list"), (torch.ones(2), "Tensor"), (3, "int")])
def test_a_state_that_is_no_dict_is_refused(tmp_path, content, kind):
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"{path} holds a {kind}, not a checkpoint; delete it to begin anew"):
        checkpoint.load(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "checkpoint.pt")


# Generators


def test_generators_go_on_where_they_were_also_through_a_file(tmp_path):
    torch.manual_seed(3)
    torch.rand(5)
    checkpoint.save({"generators": checkpoint.rng_state()}, tmp_path / "checkpoint.pt")
    expected = torch.rand(7), torch.nn.functional.dropout(torch.ones(20))
    torch.manual_seed(4)
    checkpoint.restore_rng_state(checkpoint.load(tmp_path / "checkpoint.pt")["generators"])
    assert torch.equal(torch.rand(7), expected[0])
    assert torch.equal(torch.nn.functional.dropout(torch.ones(20)), expected[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_generators_go_on_where_they_were():
    torch.cuda.manual_seed_all(3)
    state = checkpoint.rng_state()
    expected = torch.rand(7, device="cuda")
    checkpoint.restore_rng_state(state)
    assert torch.equal(torch.rand(7, device="cuda"), expected)


def test_taking_the_state_moves_no_generator():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    checkpoint.rng_state()
    assert torch.equal(torch.rand(3), expected)
