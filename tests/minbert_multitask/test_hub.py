"""The public data, with a stand-in for the library that fetches it."""

import sys
import types

import pytest
from minbert_multitask import data, hub
from minbert_multitask.data import Example

SST = [
    {"text": "a fine film", "label": 4, "label_text": "very positive"},
    {"text": "no", "label": 0, "label_text": ""},
]
QQP = [{"question1": "Is it?\n", "question2": 'Is "it"\t?', "label": 1, "idx": 0}]
STS = [{"sentence1": "Rain.", "sentence2": "Sun.", "label": 3.799999952316284, "idx": 0}]


@pytest.fixture
def library(monkeypatch):
    """Puts a stand-in in place of ``datasets`` and returns the calls it got."""
    calls = []

    def load_dataset(path, name=None):
        calls.append((path, name))
        rows = {("SetFit/sst5", None): SST, ("nyu-mll/glue", "qqp"): QQP, ("nyu-mll/glue", "stsb"): STS}[
            path, name
        ]
        hidden = rows if name is None else [row | {"label": -1} for row in rows]
        return {"train": rows, "validation": rows[:1], "test": hidden}

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_the_public_data_becomes_files_of_the_handouts_form(library, tmp_path):
    dataset = data.load(hub.fetch(tmp_path))
    assert dataset["sst", "train"] == (
        Example("sst-train-0", "a fine film", None, 4),
        Example("sst-train-1", "no", None, 0),
    )
    assert dataset["sst", "dev"] == (Example("sst-dev-0", "a fine film", None, 4),)
    assert dataset["qqp", "dev"] == (Example("qqp-dev-0", "Is it?\n", 'Is "it"\t?', 1),)
    assert dataset["sts", "train"] == (Example("sts-train-0", "Rain.", "Sun.", 3.799999952316284),)
    assert {example.label for task in ("sst", "qqp", "sts") for example in dataset[task, "test"]} == {None}


def test_files_that_are_there_are_not_fetched_again(library, tmp_path):
    hub.fetch(tmp_path)
    library.clear()
    assert hub.fetch(tmp_path) == tmp_path
    assert not library
    (tmp_path / "sts-dev.csv").unlink()
    hub.fetch(tmp_path)
    assert len(library) == 3
    data.load(tmp_path)


def test_the_cache_is_where_the_user_keeps_caches(library, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub.fetch() == tmp_path / "minbert_multitask" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.cache_folder() == tmp_path / ".cache" / "minbert_multitask" / "hub"


def test_without_the_library_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"^data 'hub' needs .*; pip install 'minbert-multitask\[hub\]'$"):
        hub.fetch(tmp_path)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ConnectionError("no route to host\nmore"), "no route to host"), (RuntimeError(), "RuntimeError")],
)
def test_the_hub_out_of_reach_is_one_sentence_and_leaves_nothing(
    library, tmp_path, monkeypatch, error, reason
):
    def fail(path, name=None):
        raise error

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", fail)
    with pytest.raises(ValueError, match=f"^data 'SetFit/sst5' could not be fetched from the hub: {reason}$"):
        hub.fetch(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_hubs_data_in_another_form_is_one_sentence(library, tmp_path, monkeypatch):
    monkeypatch.delitem(SST[0], "text")
    with pytest.raises(ValueError, match="'SetFit/sst5' could not be fetched from the hub: 'text'"):
        hub.fetch(tmp_path)
