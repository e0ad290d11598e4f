"""The documented way to the paper's own weights, ``--weights bert-base-uncased``, on a folder of its form.

The hub cannot be asked in a test, so its client hands out a folder that transformers wrote: twelve layers
under a ``bert.`` prefix beside the heads of pretraining, in small numbers.
"""

import sys
import types

import pytest
import torch
import transformers
from minbert_multitask import cli
from minbert_multitask.bert import BertModel
from minbert_multitask.results import RunResult

CONFIG = transformers.BertConfig(
    hidden_size=24, num_hidden_layers=12, num_attention_heads=12, intermediate_size=96, initializer_range=0.2
)


@pytest.fixture
def bert_base(tmp_path, minilm, monkeypatch):
    """What the hub would fetch, and the model that is in it."""
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(CONFIG).eval()
    folder = tmp_path / "bert-base-uncased"
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    client = types.ModuleType("huggingface_hub")
    client.snapshot_download = lambda name, **_: str({"bert-base-uncased": folder}[name])
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    return folder, model.bert


def test_its_encoder_computes_what_transformers_computes(bert_base):
    folder, theirs = bert_base
    ours = BertModel.from_pretrained(folder).eval()
    assert ours.config.num_hidden_layers == 12
    ids, mask = torch.randint(999, 2000, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    with torch.no_grad():
        found, expected = ours(ids, mask).last_hidden_state, theirs(ids, mask).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


def test_a_row_trains_from_it_by_its_name(bert_base, small_data, tmp_path, capsys):
    out = tmp_path / "runs"
    options = ["--epochs", "1", "--iterations", "2", "--batch-size", "2", "--data", str(small_data)]
    command = ["train", "cosine-2d+1", "--weights", "bert-base-uncased", "--out", str(out), *options]
    assert cli.main(command) == 0
    assert "bert-base-uncased, 12 encoder layers" in " ".join(capsys.readouterr().out.split())
    run = out / "cosine-2d+1-11711"
    result = RunResult.load(run / "result.json")
    assert (result.weights.name, result.weights.layers) == ("bert-base-uncased", 12)
    trained = transformers.BertModel.from_pretrained(run / "model")
    assert trained.config.num_hidden_layers == 12
    moved = [
        not torch.equal(a, b) for a, b in zip(trained.parameters(), bert_base[1].parameters(), strict=True)
    ]
    assert sum(moved) > 12 * 10
