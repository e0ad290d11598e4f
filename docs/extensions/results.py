"""Writes what the pages quote from committed files, when the site is built."""

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

from docs.gallery import curves

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "docs" / "gallery"
BENCHMARKS = ROOT / "benchmarks" / "results"
READMES = {
    "libraries/gradsurgery": ROOT / "gradsurgery" / "README.md",
    "libraries/smartreg": ROOT / "smartreg" / "README.md",
    "libraries/minbert": ROOT / "examples" / "minbert_multitask" / "README.md",
    "results/benchmarks": ROOT / "benchmarks" / "README.md",
    "results/minbert": ROOT / "examples" / "minbert_multitask" / "RESULTS.md",
}
"""By page of the site, the page of the repository that it shows."""


def load(path: Path) -> Any:
    """Returns what a results file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def figures() -> dict[str, Any]:
    """Returns the results by the names that the pages' ``{{ ... }}`` use."""
    found = load(GALLERY / "curves.json")
    return {
        "seeds": curves.SEEDS,
        "ends": {name: {task: curves.ends(found, name, task)[0] for task in curves.SIZES} for name in found},
        "ball": load(GALLERY / "ball.json"),
        "smart": load(BENCHMARKS / "smart.json")["models"]["minilm"]["one task"],
        "steps": load(BENCHMARKS / "end_to_end.json"),
        "minilm": load(BENCHMARKS / "projection-minilm-3-cpu.json"),
    }


def penalties() -> str:
    """Returns the table of R by what x is, by its radius and by dropout."""
    found = load(BENCHMARKS / "penalties.json")["penalties"]
    lines = [f"| dropout alone | | | {found['dropout alone']:.1e} |"]
    for place, radii in found.items():
        if isinstance(radii, dict):
            lines += [
                f"| {place} | {float(radius):g} | {r['shared']:.1e} | {r['independent']:.1e} |"
                for radius, r in radii.items()
                if isinstance(r, dict)
            ]
    header = ["| x | ε | R, masks shared | R, masks independent |", "| :-- | --: | --: | --: |"]
    return "\n".join([*header, *lines]) + "\n"


def readme(page: str) -> str:
    """Returns a README's text with its relative links made those of a page of the site.

    A link to another README leads to its page. One to a file that the site does not have becomes its text.
    """
    path, folder = READMES[page], (ROOT / "docs" / page).parent
    pages = {found: name for name, found in READMES.items()}

    def changed(link: re.Match[str]) -> str:
        picture, text, target, anchor = link.groups(default="")
        place = (path.parent / target).resolve()
        if place.is_dir():
            place /= "README.md"
        if place in pages:
            place = ROOT / "docs" / f"{pages[place]}.md"
        elif not picture:
            return text
        return f"{picture}[{text}]({Path(os.path.relpath(place, folder)).as_posix()}{anchor})"

    parts = re.split(r"(^```.*?^```$)", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for k in range(0, len(parts), 2):  # not within blocks, where heads[task](x) is no link
        parts[k] = re.sub(r"(!?)\[([^]]*)\]\(([^)#:\s]+)(#[^)]*)?\)", changed, parts[k])
    return "".join(parts)


def section(page: str, heading: str) -> str:
    """Returns what stands under a heading of a README, up to the next one of its level.

    Raises:
        ValueError: If the README has no such heading.
    """
    found = re.search(rf"^## {re.escape(heading)}\n+(.*?)(?=^## |\Z)", readme(page), re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"heading must be one of {READMES[page]}, got {heading!r}: take one that is there")
    return found[1]


def recipes() -> str:
    """Returns a section for each recipe: the first line of its documentation, and the script."""
    parts = []
    for path in sorted((ROOT / "examples" / "recipes").glob("*.py")):
        title = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem).splitlines()[0]
        place = (Path("..") / path.relative_to(ROOT)).as_posix()
        code = f"```{{literalinclude}} {place}\n:language: python\n```"
        parts.append(f"## {path.stem}\n\n{title}\n\n{code}")
    return "\n\n".join(parts) + "\n"


def write(folder: Path) -> None:
    """Writes tables and sections into a folder, for the pages that include them."""
    folder.mkdir(exist_ok=True)
    texts = {"penalties": penalties(), "recipes": recipes()}
    texts["smart-pytorch"] = section("libraries/smartreg", "Coming from smart-pytorch or mt-dnn")
    texts |= {page.replace("/", "-"): readme(page) for page in READMES}
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
