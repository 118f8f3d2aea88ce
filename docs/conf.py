"""How Sphinx builds the documentation site; `make docs` calls it.

The source folder is that of the repository, so that a page and its links are the same here, in an
editor and wherever the repository is shown. Everything that a page needs comes with the site: no
fonts, scripts or styles of other servers.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import sj_shortcut

project = "sj_shortcut"
author = "The sj_shortcut developers"
release = version = sj_shortcut.__version__
html_title = f"{project} {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "analysis/README.md",
    "analysis/*/results/RESULTS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CODE_OF_CONDUCT.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "data"]

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "html_image"]
# Pages of results begin at the level that suits them where they are read alone.
suppress_warnings = ["myst.header"]

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
add_module_names = False
# The site is built without Lightning; its callback is documented all the same.
autodoc_mock_imports = ["lightning"]

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_extra_path = ["site/root"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False
pygments_style = "default"


def _inline_math(writer: Any, node: nodes.math) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block_math(writer: Any, node: nodes.math_block) -> None:
    lines = [convert(line, display="block") for line in node.astext().split(r"\\")]
    writer.body.append(f'<div class="math">{"".join(lines)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Formulas as MathML, which browsers draw by themselves: Sphinx's own way is a script."""
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
