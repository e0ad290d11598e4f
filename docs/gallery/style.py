"""What the gallery's pictures share: colours that every colour vision tells apart, and a plain style."""

import matplotlib as mpl

BLUE, VERMILION, GREEN = "#0072b2", "#d55e00", "#009e73"
PURPLE, ORANGE, SKY = "#cc79a7", "#e69f00", "#56b4e9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#000000")  # Okabe and Ito
GREY = "#777777"

styled = mpl.rc_context(
    {
        "figure.dpi": 120,
        "savefig.dpi": "figure",
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "legend.frameon": False,
    }
)
"""Decorates what draws, so that a user's matplotlibrc changes nothing."""
