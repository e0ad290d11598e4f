"""Whose predictions on test are handed in."""

from dataclasses import replace

from minbert_multitask.best_runs import best_runs
from minbert_multitask.evaluate import Score, Scores

from .made_up import run


def scored(row, overall, *, seed=1):
    score = Score(overall, overall, overall)
    return replace(run(row, seed=seed), dev=Scores(score, score, score, score))


def test_predictions_are_those_of_the_best_three_rows_and_of_best():
    runs = [
        scored("gs", 0.9, seed=1),
        scored("gs", 0.1, seed=2),  # the best run of a row that is not the best
        scored("gse", 0.6, seed=1),
        scored("gse", 0.7, seed=2),
        scored("multitask", 0.6, seed=1),
        scored("smart", 0.58, seed=1),
        scored("best", 0.2, seed=1),
        scored("best", 0.3, seed=2),
        scored("zero-shot", 0.99, seed=1),  # untrained
    ]
    chosen = [(found.row, found.seed) for found in best_runs(runs)]
    assert chosen == [("gse", 2), ("multitask", 1), ("smart", 1), ("best", 2)]
    runs += [scored("best", 0.9, seed=3), scored("best", 0.9, seed=4), scored("best", 0.9, seed=5)]
    chosen = [(found.row, found.seed) for found in best_runs(runs)]
    assert chosen == [("gse", 2), ("best", 3), ("multitask", 1)]
