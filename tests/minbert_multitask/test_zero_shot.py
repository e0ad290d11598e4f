"""The pretrained weights alone."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask.bert import BertModel
from minbert_multitask.evaluate import pearson
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.inference import predict_split
from minbert_multitask.inputs import DataSource, Inputs
from minbert_multitask.model import MultitaskModel
from minbert_multitask.settings import Settings
from minbert_multitask.zero_shot import best_threshold, zero_shot

SETTINGS = Settings(device="cpu")


@given(st.lists(st.tuples(st.floats(-1, 1, width=32), st.booleans()), min_size=1, max_size=12))
def test_no_threshold_does_better(pairs):
    scores = torch.tensor([score for score, _ in pairs])
    labels = torch.tensor([float(label) for _, label in pairs])

    def right(threshold):
        return int(((scores.double() > threshold) == labels.bool()).sum())

    candidates = [-2.0, *scores.double().tolist()]
    assert right(best_threshold(scores, labels)) == max(map(right, candidates))


def test_cosines_of_mean_embeddings_and_the_majority(small_inputs):
    model = MultitaskModel(BertModel.from_pretrained(small_inputs.weights), EXPERIMENTS["zero-shot"])
    found = predict_split(zero_shot(model, small_inputs.tokens, SETTINGS), small_inputs.tokens, "dev")
    example = small_inputs.dataset["sts", "dev"][3]
    model.eval()
    sides = []
    for sentence in (example.sentence1, example.sentence2):
        ids, mask = small_inputs.tokenizer.pad(small_inputs.tokenizer.encode([sentence]))
        sides.append(model.encoder(ids, mask).last_hidden_state[0].mean(dim=0))
    assert abs(found["sts"].predicted[3] - F.cosine_similarity(*sides, dim=0).item()) < 1e-5
    labels = [example.label for example in small_inputs.dataset["sst", "train"]]
    assert set(found["sst"].predicted) == {
        min(label for label in labels if labels.count(label) == max(map(labels.count, labels)))
    }
    assert set(found["qqp"].predicted) <= {0, 1}


def test_minilm_knows_similarity_without_training(minilm, small_data):
    inputs = Inputs.load(DataSource("small", small_data), minilm)
    model = MultitaskModel(BertModel.from_pretrained(minilm), EXPERIMENTS["zero-shot"])
    found = predict_split(zero_shot(model, inputs.tokens, SETTINGS), inputs.tokens, "dev")
    assert pearson(found["sts"].predicted, found["sts"].gold) > 0.4
