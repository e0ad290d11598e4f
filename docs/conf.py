"""Settings of the site; ``make docs`` builds it."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import gradsurgery  # noqa: E402
from docs import architecture  # noqa: E402
from docs.extensions import results  # noqa: E402

GENERATED = ROOT / "docs" / "_generated"
results.write(GENERATED)
architecture.write(GENERATED)

project = "gradsurgery + smartreg"
author = "the gradsurgery and smartreg authors"
release = version = gradsurgery.__version__
extensions = [
    "docs.extensions.mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_generated", "gallery"]
myst_enable_extensions = ["dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = results.figures()
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 90
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "gradsurgery + smartreg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
