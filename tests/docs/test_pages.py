"""The site's pages: their Python runs, no public name is missing, and every page is reached."""

import importlib
import re
import warnings
from pathlib import Path

import pytest

from docs.extensions import results
from tests.readme import run_python_blocks

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "_generated" not in page.parts]
WITH_CODE = [page for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")]


def name(page):
    return page.relative_to(DOCS).as_posix()


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_blocks_of_a_page_run_one_after_another(page, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        names = run_python_blocks(page)
    assert len(names) > 1


def test_python_is_marked_as_such():
    # A block of another name would not run: none may hold what is Python but for that.
    for page in PAGES:
        for language, block in re.findall(
            r"^```(\S*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
        ):
            if language in ("py", "python3", "pycon", "{code-block}"):
                pytest.fail(
                    f"{name(page)} has a block in {language!r}: mark it python, so that it runs\n{block}"
                )


@pytest.mark.parametrize("library", ["gradsurgery", "smartreg"])
def test_every_public_name_is_on_the_reference_page(library):
    text = (DOCS / "reference" / f"{library}.md").read_text(encoding="utf-8")
    shown = re.findall(rf"^\.\. auto\w+:: {library}\.([\w.]+)$", text, re.MULTILINE)
    assert len(shown) == len(set(shown))
    public = set(importlib.import_module(library).__all__)
    plots = importlib.import_module(f"{library}.plots")
    public |= {f"plots.{name}" for name in vars(plots) if name.startswith("plot_")}
    assert set(shown) == public


def test_every_readme_is_a_page_whose_links_lead_to_files():
    for page, path in results.READMES.items():
        text = results.readme(page)
        assert f"{page.replace('/', '-')}.md" in (DOCS / f"{page}.md").read_text(encoding="utf-8")
        assert re.sub(r"\]\([^)]*\)|[][!]", "", text) == re.sub(
            r"\]\([^)]*\)|[][!]", "", path.read_text(encoding="utf-8")
        ), "a README's words must stay as they are"
        blocks = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
        assert blocks.findall(text) == blocks.findall(path.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", blocks.sub("", text)):
            assert (DOCS / page).parent.joinpath(target).exists(), (page, target)


def test_quoted_tables_are_those_of_the_results():
    penalties = results.load(results.BENCHMARKS / "penalties.json")["penalties"]
    table = results.penalties()
    assert f"{penalties['dropout alone']:.1e}" in table
    for radii in penalties.values():
        for found in radii.values() if isinstance(radii, dict) else ():
            assert not isinstance(found, dict) or f"{found['shared']:.1e}" in table


def test_a_section_ends_where_the_next_begins():
    text = results.section("libraries/smartreg", "Coming from smart-pytorch or mt-dnn")
    assert "| smart-pytorch | mt-dnn | here |" in text
    assert "\n## " not in text
    with pytest.raises(ValueError, match="'None such'"):
        results.section("libraries/smartreg", "None such")


def test_every_recipe_is_shown():
    text = results.recipes()
    for path in (results.ROOT / "examples" / "recipes").glob("*.py"):
        assert f"literalinclude}} ../examples/recipes/{path.name}\n" in text
