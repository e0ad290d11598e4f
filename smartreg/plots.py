"""The figure of a sweep; it needs matplotlib, the extra ``smartreg[plots]``."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .diagnosis import EXCESSIVE, INERT, Diagnosis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TERMS: dict[str, dict[str, Any]] = {
    "adversarial": {"color": "#0072b2", "marker": "o", "label": "R, the perturbation alone"},
    "random": {"color": "#e69f00", "marker": "^", "label": "R at random points of the same radius"},
    "dropout": {"color": "#777777", "linestyle": "--", "label": "R of two dropout masks"},
}
_SHARE: dict[str, Any] = {"color": "#d55e00", "marker": "s", "label": "gradient share λ‖∇R‖ / ‖∇L‖"}


def plot_sweep(
    sweeps: Sequence[Diagnosis] | Mapping[str, Sequence[Diagnosis]],
    *,
    marked: Mapping[str, float] | Mapping[str, Mapping[str, float]] | None = None,
) -> "Figure":
    """Draws R's terms over ε, and below, where it was measured, the gradient share.

    The share's band from 0.01 to 1, in which a penalty is neither inert nor outweighs the task, is shaded.

    Args:
        sweeps: What :meth:`SMART.sweep` returned, or several of them by name, which become columns.
        marked: Values of ε by name, drawn as vertical lines: such as the published and the calibrated one. Of
            several sweeps a mapping by the sweep's name.

    Returns:
        A figure on no screen, 4.2 inches a column.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is nothing to draw.
    """
    columns = dict(sweeps) if isinstance(sweeps, Mapping) else {"": sweeps}
    marks: dict[str, Any] = dict(marked or {}) if isinstance(sweeps, Mapping) else {"": marked or {}}
    if not columns or not all(columns.values()):
        raise ValueError("sweeps must hold a diagnosis each, got none: pass what SMART.sweep returned")
    has_share = any(d.gradient_share is not None for sweep in columns.values() for d in sweep)
    figure = _figure(1.2 + 4.2 * len(columns), 2.9 + (2.1 if has_share else 0.0))
    panels = figure.subplots(
        1 + has_share,
        len(columns),
        sharex="col",
        sharey="row",
        squeeze=False,
        height_ratios=(3, 2)[: 1 + has_share],
    )
    handles: dict[str, Any] = {}
    for across, (name, sweep) in enumerate(columns.items()):
        terms = panels[0, across]
        terms.set_title(name)
        for term, style in _TERMS.items():
            handles[style["label"]] = _draw(terms, sweep, term, style)
        if has_share:
            handles[_SHARE["label"]] = _draw(panels[1, across], sweep, "gradient_share", _SHARE)
            panels[1, across].axhspan(INERT, EXCESSIVE, color="#009e73", alpha=0.12, linewidth=0)
        for panel in panels[:, across]:
            panel.set(xscale="log", yscale="log")
            for n, (what, epsilon) in enumerate(marks.get(name, {}).items()):
                line = {"color": "black", "linewidth": 1, "linestyle": (":", "-.", "--", "-")[n % 4]}
                handles[what] = panel.axvline(epsilon, **line, label=what)
        panels[-1, across].set_xlabel("ε")
    panels[0, 0].set_ylabel("R")
    if has_share:
        panels[1, 0].set_ylabel("gradient share")
    figure.legend(
        handles.values(), handles, loc="outside lower left", ncols=3, fontsize="small", frameon=False
    )
    return figure


def _draw(axes: Any, sweep: Sequence[Diagnosis], name: str, style: dict[str, Any]) -> Any:
    """Draws one value of each diagnosis over ε, where a logarithm can show it, and returns the line."""
    values = [getattr(diagnosis, name) for diagnosis in sweep]
    shown = [value if value is not None and 0 < value < math.inf else math.nan for value in values]
    (line,) = axes.plot([d.epsilon for d in sweep], shown, markersize=4, linewidth=1.5, **style)
    return line


def _figure(width: float, height: float) -> "Figure":
    """Returns an empty figure of this size in inches, on no screen."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ImportError("smartreg.plots needs matplotlib: pip install 'smartreg[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")
