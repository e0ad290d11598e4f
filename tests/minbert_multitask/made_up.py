"""Results as training leaves them, made up from a seed, and what figures draw of them."""

from dataclasses import asdict
from itertools import combinations

import numpy as np
from minbert_multitask.comparable import comparable
from minbert_multitask.evaluate import Score, Scores
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.results import ConflictSample, DataInfo, Epoch, RunResult, WeightsInfo
from minbert_multitask.settings import Settings

TASKS = ("sst", "qqp", "sts")
METRICS = (*TASKS, "overall")
CONSTANT = {"sst": 0.254, "qqp": 0.625, "sts": 0.0, "overall": 0.459667}


def run(row="baseline", *, seed=11711, data="handout", fingerprint="0123456789abcdef", layers=6, **settings):
    """Returns a run; `settings` are those of `Settings`."""
    generator = np.random.default_rng([seed, *row.encode()])
    asked = Settings(**{"epochs": 3, "iterations": 20, "probe_every": 5, "seed": seed, **settings})
    experiment = EXPERIMENTS.get(row)
    trained = experiment is None or experiment.update != "none"
    iterations = asked.iterations * (experiment.epoch_multiple if experiment else 1)
    epochs = tuple(
        Epoch(
            epoch=number,
            iterations=iterations,
            train_loss=dict.fromkeys(TASKS, 1.0),
            dev=scores(generator),
            train=scores(generator) if asked.train_eval_size else None,
            seconds=float(number),
        )
        for number in range(asked.epochs if trained else 0)
    )
    best = max(epochs, key=lambda epoch: epoch.dev["overall"], default=None)
    values = best.dev if best else scores(generator)
    return RunResult(
        row=row,
        seed=seed,
        data=DataInfo(
            name=data,
            fingerprint=fingerprint,
            sizes={
                t: {"train": 90, "dev": n, "test": 9} for t, n in zip(TASKS, (1101, 2000, 863), strict=True)
            },
            constant=CONSTANT,
        ),
        weights=WeightsInfo(name=asked.weights, layers=layers),
        config=asdict(asked),
        versions={"python": "3.11"},
        epochs=epochs,
        best_epoch=best.epoch if best else None,
        dev=Scores(*(interval(values[metric], generator) for metric in METRICS)),
        conflicts=tuple(
            ConflictSample(
                epoch=epoch.epoch,
                iteration=iteration,
                cosines={f"{a}-{b}": generator.normal(0, 0.1) for a, b in combinations(TASKS, 2)},
                null={task: generator.normal(0.2, 0.1) for task in TASKS},
            )
            for epoch in epochs
            for iteration in (range(0, iterations, asked.probe_every) if asked.probe_every else ())
        ),
        seconds=3.0,
        peak_memory_bytes=1,
    )


def scores(generator):
    values = {task: generator.uniform(0.3, 0.9) for task in TASKS}
    return {**values, "overall": (values["sst"] + values["qqp"] + (values["sts"] + 1) / 2) / 3}


def interval(value, generator):
    return Score(value, value - generator.uniform(0.01, 0.05), value + generator.uniform(0.01, 0.05))


def figure_of(draw_one, results):
    (group,) = comparable(results)
    return draw_one(group)


def panels(figure):
    """Returns the panels that hold data, in reading order."""
    return [axes for axes in figure.axes if axes.axison]


def lines(axes, label):
    return [np.array(line.get_data(), dtype=float) for line in axes.lines if line.get_label() == label]
