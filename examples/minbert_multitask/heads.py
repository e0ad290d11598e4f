"""The heads over the sentence embeddings: each turns embeddings into outputs, a loss and predictions.

Every head is a module with the same four parts: ``forward(*embeddings)`` gives the outputs,
``loss(outputs, labels)`` a batch mean, ``predict(outputs)`` what a prediction file holds; ``divergence`` is
what SMART compares outputs with. D is the encoder's hidden size, B the batch.
"""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartreg import Divergence, bernoulli_symmetric_kl, squared_error, symmetric_kl

from .experiments import ParaphraseHeadName, SimilarityHeadName

DROPOUT = 0.3
NUM_SENTIMENTS = 5
MAX_SIMILARITY = 5.0


class Head(nn.Module):
    """What one task computes from the sentence embeddings."""

    divergence: Divergence = staticmethod(squared_error)
    joint = False
    """Whether the two sentences of a pair are encoded together, to one embedding."""

    @abstractmethod
    def forward(self, *embeddings: Tensor) -> Tensor:
        """Returns the outputs, of shape ``(B,)`` or ``(B, classes)``, of one or two embeddings ``(B, D)``."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean loss over the batch, 0-d, of labels ``(B,)``."""

    def predict(self, outputs: Tensor) -> Tensor:
        """Returns the predictions ``(B,)``."""
        return outputs


class SentimentHead(Head):
    """Linear D -> 5, cross entropy."""

    divergence = staticmethod(symmetric_kl)

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(DROPOUT)
        self.linear = nn.Linear(hidden_size, NUM_SENTIMENTS)

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Returns the logits of one embedding, ``(B, 5)``."""
        (sentence,) = embeddings
        logits: Tensor = self.linear(self.dropout(sentence))  # (B, 5)
        return logits

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the cross entropy of sentiments 0 to 4."""
        return F.cross_entropy(outputs, labels.long())

    def predict(self, outputs: Tensor) -> Tensor:
        """Returns the likeliest sentiments."""
        return outputs.argmax(dim=-1)


class FeatureHead(Head):
    """Dropout and a linear layer to one output, on features of the embeddings: here both."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(DROPOUT)
        self.linear = nn.Linear(self.num_features(hidden_size), 1)

    def num_features(self, hidden_size: int) -> int:
        """Returns how many features there are."""
        return 2 * hidden_size

    def features(self, *embeddings: Tensor) -> Tensor:
        """Returns the features of the embeddings, ``(B, features)``."""
        return torch.cat(embeddings, dim=-1)

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Returns the outputs of the embeddings, ``(B,)``."""
        outputs: Tensor = self.linear(self.dropout(self.features(*embeddings)))  # (B, 1)
        return outputs.squeeze(-1)


class _Agreement(FeatureHead):
    """Its features are [a; b; |a - b|; a b], as in InferSent (Conneau et al. 2017, arXiv 1705.02364).

    Of [a; b] alone a linear layer is additive: what it makes of a cannot depend on b. The last two features
    can express that a is like b.
    """

    def num_features(self, hidden_size: int) -> int:
        return 4 * hidden_size

    def features(self, *embeddings: Tensor) -> Tensor:
        first, second = embeddings
        return torch.cat([first, second, (first - second).abs(), first * second], dim=-1)


class _Joint(FeatureHead):
    """Its features are the one embedding of both sentences, which were encoded together."""

    joint = True

    def num_features(self, hidden_size: int) -> int:
        return hidden_size


class ParaphraseHead(FeatureHead):
    """Linear 2D -> 1 on both embeddings, binary cross entropy."""

    divergence = staticmethod(bernoulli_symmetric_kl)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the binary cross entropy of labels 0 and 1."""
        return F.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype))

    def predict(self, outputs: Tensor) -> Tensor:
        """Returns 1 where a paraphrase is the likelier."""
        return (outputs > 0).long()


class AgreementParaphrase(_Agreement, ParaphraseHead):
    """Linear 4D -> 1 on [a; b; |a - b|; a b], binary cross entropy."""


class JointParaphrase(_Joint, ParaphraseHead):
    """Linear D -> 1 on the embedding of the pair, binary cross entropy."""


class SquaredErrorHead(Head):
    """A regression head: its outputs are the predictions."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean squared error, of labels in their own precision under autocast too."""
        return (outputs - labels).square().mean()


class LinearSimilarity(SquaredErrorHead):
    """Linear 2D -> 1 without dropout, mean squared error: additive in the two embeddings."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * hidden_size, 1)

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Returns the similarities of two embeddings, ``(B,)``."""
        similarity: Tensor = self.linear(torch.cat(embeddings, dim=-1))  # (B, 1)
        return similarity.squeeze(-1)


class CosineEmbeddingSimilarity(Head):
    """No parameters: ``CosineEmbeddingLoss``, margin 0, the label +1 from a similarity of 2.5 on, else -1."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Returns the cosines of two embeddings, ``(B,)``."""
        first, second = embeddings
        return F.cosine_similarity(first, second, dim=-1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean of ``1 - cos`` where the label is +1, ``max(0, cos)`` where it is -1."""
        alike = labels >= MAX_SIMILARITY / 2
        return torch.where(alike, 1.0 - outputs, outputs.clamp(min=0.0)).mean()


class CosineFeaturesSimilarity(SquaredErrorHead):
    """One linear D -> D on each embedding, 5 sigmoid(20 cos), mean squared error."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(DROPOUT)
        self.linear = nn.Linear(hidden_size, hidden_size)

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Returns the similarities of two embeddings, ``(B,)``."""
        first, second = (self.linear(self.dropout(embedding)) for embedding in embeddings)
        return MAX_SIMILARITY * torch.sigmoid(20.0 * F.cosine_similarity(first, second, dim=-1))


class FeatureSimilarity(FeatureHead, SquaredErrorHead):
    """Linear features -> 1 after dropout, mean squared error."""


class CosineBesideSimilarity(FeatureSimilarity):
    """Linear 2D + 1 -> 1 on dropout([a; b; cos(a, b)]), mean squared error."""

    def num_features(self, hidden_size: int) -> int:
        """Returns 2D + 1."""
        return 2 * hidden_size + 1

    def features(self, *embeddings: Tensor) -> Tensor:
        """Returns both embeddings and their cosine, ``(B, 2D + 1)``."""
        first, second = embeddings
        cosine = F.cosine_similarity(first, second, dim=-1).unsqueeze(-1)  # (B, 1)
        return torch.cat([first, second, cosine], dim=-1)


class AgreementSimilarity(_Agreement, FeatureSimilarity):
    """Linear 4D -> 1 on dropout([a; b; |a - b|; a b]), mean squared error."""


class JointSimilarity(_Joint, FeatureSimilarity):
    """Linear D -> 1 on dropout of the embedding of the pair, mean squared error."""


class ScaledCosineSimilarity(SquaredErrorHead):
    """A learned scale and bias on the cosine, at first 5 and 0, mean squared error: it never saturates."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(MAX_SIMILARITY))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Returns the similarities of two embeddings, ``(B,)``."""
        first, second = embeddings
        return self.scale * F.cosine_similarity(first, second, dim=-1) + self.bias


SIMILARITY_HEADS: dict[SimilarityHeadName, type[Head]] = {
    "linear": LinearSimilarity,
    "cosine-embedding": CosineEmbeddingSimilarity,
    "cosine-d": CosineFeaturesSimilarity,
    "cosine-2d+1": CosineBesideSimilarity,
    "cosine-scaled": ScaledCosineSimilarity,
    "agreement": AgreementSimilarity,
    "joint": JointSimilarity,
}
PARAPHRASE_HEADS: dict[ParaphraseHeadName, type[Head]] = {
    "linear": ParaphraseHead,
    "agreement": AgreementParaphrase,
    "joint": JointParaphrase,
}
