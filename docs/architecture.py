"""Draws the architecture: who imports whom, read from the sources, one picture a distribution.

An arrow that a longer way implies is left out. A module stands above all that it imports, which is possible
since no imports go in a circle.
"""

import ast
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "gradsurgery": ROOT / "gradsurgery",
    "smartreg": ROOT / "smartreg",
    "minbert_multitask": ROOT / "examples" / "minbert_multitask",
}
LIBRARIES = ("gradsurgery", "smartreg")
Graph = dict[str, set[str]]

CELL, ROW, HEIGHT, MARGIN = 128, 78, 30, 12


def imports(folder: Path) -> Graph:
    """Returns by module what it imports of its package and of the libraries, also within functions.

    ``__init__``, which gathers the public names, and ``__main__`` are left out, and so is what is imported
    for its types alone.
    """
    graph: Graph = {}
    names = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    for name in sorted(names):
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        found: set[str] = set()
        for node in _running(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                found |= {node.module} if node.module else {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
            elif isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
        graph[name] = {other for other in found if other in names or other in LIBRARIES} - {name, folder.name}
    for library in LIBRARIES:
        if any(library in found for found in graph.values()):
            graph[library] = set()
    return graph


def _running(tree: ast.AST) -> list[ast.AST]:
    """Returns the nodes below a node, those under ``if TYPE_CHECKING`` left out."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            found += [node, *_running(node)]
    return found


def levels(graph: Graph) -> dict[str, int]:
    """Returns for each module one more than the highest of what it imports; 0 for one that imports none.

    Raises:
        ValueError: If imports go in a circle.
    """
    found: dict[str, int] = {}

    def level(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            raise ValueError(f"imports must not go in a circle, got {' -> '.join([*above, name])}")
        if name not in found:
            found[name] = 1 + max((level(other, (*above, name)) for other in graph[name]), default=-1)
        return found[name]

    for name in graph:
        level(name, ())
    return found


def direct(graph: Graph) -> Graph:
    """Returns the graph without the arrows that a longer way implies."""
    reach = {name: set[str]() for name in graph}
    for name in sorted(graph, key=levels(graph).__getitem__):
        reach[name] = graph[name].union(*(reach[other] for other in graph[name]))
    return {
        name: {other for other in others if not any(other in reach[way] for way in others)}
        for name, others in graph.items()
    }


def places(graph: Graph) -> dict[str, tuple[float, int]]:
    """Returns each module's column and row; a few sweeps bring it above the middle of what it imports."""
    level = levels(graph)
    rows: list[list[str]] = [[] for _ in range(max(level.values()) + 1)]
    for name in sorted(graph):
        rows[level[name]].append(name)
    width = max(map(len, rows))
    users = {name: {n for n, others in graph.items() if name in others} for name in graph}
    column: dict[str, float] = {}

    def spread(row: list[str]) -> None:
        for k, name in enumerate(row):
            column[name] = (k + 0.5) * width / len(row)

    for row in rows:
        spread(row)
    for sweep in range(12):
        neighbours = graph if sweep % 2 == 0 else users
        for row in rows if sweep % 2 == 0 else reversed(rows):
            middle = {
                name: sum(column[n] for n in neighbours[name]) / len(neighbours[name])
                if neighbours[name]
                else column[name]
                for name in row
            }
            row.sort(key=lambda name: (middle[name], name))
            spread(row)
    return {name: (column[name], level[name]) for name in graph}


def svg(package: str) -> str:
    """Returns a package's picture. A module's first line of documentation shows over its box."""
    folder = PACKAGES[package]
    graph = direct(imports(folder))
    place = places(graph)
    top = max(row for _, row in place.values())
    width = int(max(column for column, _ in place.values()) * CELL + CELL / 2 + 2 * MARGIN)
    height = (top + 1) * ROW - (ROW - HEIGHT) + 2 * MARGIN
    centre = {
        name: (MARGIN + column * CELL, MARGIN + (top - row) * ROW + HEIGHT / 2)
        for name, (column, row) in place.items()
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        f'style="min-width: {min(0.8 * width, 720):.0f}px">',
        "<style>.module text { font: 12px sans-serif }</style>",
        f'<defs><marker id="{package}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" orient="auto">',
        '<path d="M0 0L8 4L0 8z" fill="#777"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for name, others in graph.items():
        x, y = centre[name]
        for other in sorted(others):
            end, low = centre[other]
            bend = (low - y) / 2
            parts.append(
                f'<path class="edge" data-from="{name}" data-to="{other}" fill="none" stroke="#999"'
                f' marker-end="url(#{package})" d="M{x:.0f} {y + HEIGHT / 2:.0f}C{x:.0f} {y + bend:.0f}'
                f' {end:.0f} {low - bend:.0f} {end:.0f} {low - HEIGHT / 2:.0f}"/>'
            )
    for name, (x, y) in centre.items():
        fill = "#d7ebf7" if name not in LIBRARIES else "#fbe3cf"
        box = f'x="{x - CELL / 2 + 4:.0f}" y="{y - HEIGHT / 2:.0f}" width="{CELL - 8}" height="{HEIGHT}"'
        parts.append(
            f'<g class="module"><title>{escape(_summary(folder / f"{name}.py", name))}</title>'
            f'<rect {box} rx="5" fill="{fill}" stroke="#5b7f95"/>'
            f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle" fill="#111">{name}</text></g>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _summary(path: Path, name: str) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
    return (text or f"the library {name}").splitlines()[0].replace("|", "\\|")


def modules(package: str) -> str:
    """Returns a table of a package's modules, those that import least first, and their first lines."""
    folder, level = PACKAGES[package], levels(imports(PACKAGES[package]))
    rows = [
        f"| `{name}.py` | {_summary(folder / f'{name}.py', name)} |"
        for name in sorted(level, key=lambda name: (level[name], name))
        if name not in LIBRARIES
    ]
    return "\n".join(["| module | what it is |", "| :-- | :-- |", *rows]) + "\n"


def write(folder: Path) -> None:
    """Writes pictures and tables into a folder, beside the page that includes them."""
    folder.mkdir(exist_ok=True)
    for package in PACKAGES:
        (folder / f"{package}.svg").write_text(svg(package), encoding="utf-8")
        (folder / f"{package}.md").write_text(modules(package), encoding="utf-8")
