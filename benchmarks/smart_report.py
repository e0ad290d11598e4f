"""The tables and the picture of what SMART costs, from the results file."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .smart import FORWARD, LARGEST, WITHOUT
from .tables import ranged, table

NAMES = {"minilm": "MiniLM", "bert-base": "BERT-base"}


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def size_of(found: dict[str, Any], name: str) -> str:
    """Returns a model and its batch in words."""
    model, batch = found["models"][name], found["batch"]
    layers, width, rows, tokens = model["layers"], model["width"], batch["rows"], batch["tokens"]
    return f"{NAMES[name]} ({layers} layers, {width} wide), {rows} x {tokens} tokens"


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a step's forwards and times, where they were taken, and its memory."""
    if "error" in row:
        return [f"failed: {row['error']}", "", "", ""]
    timed = [f"{row['forwards']:.1f}", ranged(row["ratio"])] if "forwards" in row else []
    return [*timed, megabytes(row["activations"]), megabytes(row["peak"])]


def one_task_table(found: dict[str, Any]) -> str:
    """Returns the table of one task's step, of the first model."""
    name, model = next(iter(found["models"].items()))
    lines = [[step, *cells(row)] for step, row in model["one task"].items()]
    made_with = found["measured_with"]
    versions = ", ".join(f"{package} {version}" for package, version in made_with["versions"].items())
    return (
        table(["", "forwards", "time, x one forward", "activations", "peak"], lines)
        + f"\n\n{size_of(found, name)}; a gradient takes {megabytes(model['gradient'])}. {made_with['cpu']},"
        f" {made_with['threads']} thread; {versions}."
    )


def three_tasks_tables(found: dict[str, Any]) -> str:
    """Returns a table for each model of SMART + GSE on three tasks."""
    parts = []
    for name, model in found["models"].items():
        rows = model["three tasks"]
        timed = ["forwards", "time, x one forward"] if "forwards" in rows[FORWARD] else []
        header = [f"{size_of(found, name)} a sentence", *timed, "activations", "peak"]
        lines = [
            [step, *cells(row), f"{row['peak'] / rows[WITHOUT]['peak']:.2f}"]
            for step, row in rows.items()
            if step != FORWARD
        ]
        gradient = megabytes(model["gradient"])
        parts.append(f"{table([*header, f'x {WITHOUT}'], lines)}\n\nA gradient takes {gradient}.")
    return "\n\n".join(parts)


def draw_smart(found: dict[str, Any], path: Path) -> None:
    """Draws the bytes alive over a step of three tasks, for each model."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, len(found["models"]), squeeze=False).flat
    for axes, (name, model) in zip(panels, found["models"].items(), strict=True):
        for step, row in model["three tasks"].items():
            label = f"{step}: {megabytes(row['peak'])}"
            if step == LARGEST:
                axes.axhline(row["peak"] / 1e9, color="black", linestyle="--", linewidth=1, label=label)
            elif step != FORWARD:
                seconds, alive = zip(*row["curve"], strict=True)
                share = [100 * second / seconds[-1] for second in seconds]
                color = "0.7" if step == WITHOUT else None
                axes.plot(
                    share, [size / 1e9 for size in alive], drawstyle="steps-post", color=color, label=label
                )
        axes.set(xlabel="% of the step's time", ylabel="GB beside parameters and moments", ylim=0)
        axes.set_title(size_of(found, name), fontsize=10)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9)
    figure.savefig(path, dpi=100, metadata={"Software": None})
