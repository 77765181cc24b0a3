"""How Sphinx builds this folder: `make docs`, offline, warnings are errors."""

from unlearn.version import __version__

project = "unlearn"
version = release = __version__
copyright = "the authors of unlearn, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["*.py"]

myst_heading_anchors = 3

# the packages' docstrings write code between single backticks
default_role = "literal"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"unlearn {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sphinx = False
