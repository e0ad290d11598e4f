"""The figure holds the curves it should, and says what is missing."""

import subprocess
import sys
import warnings
from dataclasses import replace

import pytest

from smartreg import Diagnosis
from smartreg.plots import plot_sweep

ONE = Diagnosis(
    epsilon=1e-5,
    adversarial=1e-9,
    random=1e-10,
    dropout=1e-2,
    gain=10.0,
    saturated=0.5,
    lost=0.0,
    gradient_share=1e-4,
    suggested_epsilon=None,
    verdict="",
)
SWEEP = [
    replace(
        ONE, epsilon=10.0**n, adversarial=10.0 ** (2 * n), random=10.0 ** (2 * n - 1), gradient_share=10.0**n
    )
    for n in range(-5, 1)
]


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_every_term_is_drawn_over_epsilon(tmp_path):
    figure = plot_sweep(SWEEP, marked={"published": 1e-5})
    terms, share = figure.axes
    for name, label in (
        ("adversarial", "R, the perturbation alone"),
        ("random", "R at random points of the same radius"),
        ("dropout", "R of two dropout masks"),
    ):
        assert lines(terms)[label].get_xdata().tolist() == [d.epsilon for d in SWEEP]
        assert lines(terms)[label].get_ydata().tolist() == [getattr(d, name) for d in SWEEP]
    (drawn,) = (line for label, line in lines(share).items() if "gradient share" in label)
    assert drawn.get_ydata().tolist() == [d.gradient_share for d in SWEEP]
    for panel in (terms, share):
        assert panel.get_xscale() == panel.get_yscale() == "log"
        assert lines(panel)["published"].get_xdata() == [1e-5, 1e-5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_without_shares_there_is_one_panel_and_zeros_are_left_out():
    sweep = [replace(d, gradient_share=None, dropout=0.0) for d in SWEEP]
    (terms,) = plot_sweep(sweep).axes
    assert all(value != value for value in lines(terms)["R of two dropout masks"].get_ydata())


def test_several_sweeps_are_columns_with_marks_of_their_own():
    figure = plot_sweep({"sst": SWEEP, "sts": SWEEP}, marked={"sst": {"published": 1e-5, "calibrated": 0.1}})
    assert [axes.get_title() for axes in figure.axes] == ["sst", "sts", "", ""]
    assert "calibrated" in lines(figure.axes[0])
    assert "calibrated" not in lines(figure.axes[1])
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 6


@pytest.mark.parametrize("nothing", [[], {}, {"sst": []}])
def test_nothing_to_draw_is_refused(nothing):
    with pytest.raises(ValueError, match="sweeps must hold a diagnosis each, got none"):
        plot_sweep(nothing)


def test_matplotlib_is_imported_by_the_figure_only(monkeypatch):
    code = "import sys, smartreg.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'smartreg\[plots\]'"):
        plot_sweep(SWEEP)
