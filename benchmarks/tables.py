"""Markdown tables of figures."""


def table(header: list[str], lines: list[list[str]]) -> str:
    """Returns a Markdown table, its first column to the left and the others to the right."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *lines])


def ranged(value: dict[str, float], digits: int = 2) -> str:
    """Returns a median with its quartiles."""
    return f"{value['median']:,.{digits}f} ({value['low']:,.{digits}f} to {value['high']:,.{digits}f})"
