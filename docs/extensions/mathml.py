"""Writes formulas as MathML, which browsers show by themselves: no script, no font and no network."""

import re
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_log = logging.getLogger(__name__)


def inline(writer: Any, node: Any) -> None:
    """Writes a formula within a line."""
    writer.body.append(_mathml(node, block=False))
    raise SkipNode


def block(writer: Any, node: Any) -> None:
    """Writes a formula on lines of its own, which scroll where they are wider than the screen."""
    writer.body.append(f'<div class="formula">{_mathml(node, block=True)}</div>')
    raise SkipNode


def _mathml(node: Any, *, block: bool) -> str:
    try:
        found = tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        _log.warning("formula %r: %s", node.astext(), error, location=node)
        return ""
    # A bar with an exponent would stretch by itself, apart from its partner.
    return re.sub(r"<mo([^>]*)>‖</mo>", r'<mo\1 stretchy="false">‖</mo>', found)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the renderer."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
