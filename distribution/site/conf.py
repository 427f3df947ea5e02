"""How Sphinx builds the documentation as a site: `make docs`.

The pages are the Markdown files as they are read in the repository. The navigation comes from the links of docs/index.md
and of the two other pages that lead to pages, so that it stands once.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from pygments.lexers.special import TextLexer

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "cms"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "bench/*.md"]
exclude_patterns = [".*", "build", "dist"]
nitpicky = True

# Links to a heading have the anchors that other programs that show Markdown make, too.
myst_heading_anchors = 4

html_theme = "furo"
html_title = "cms"
html_copy_source = False
html_show_copyright = False
# The root document is in a folder: who opens the site begins there.
templates_path = ["."]
html_additional_pages = {"index": "begin.html"}

# What is on this machine only, and what answers no program.
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1)", r"https://login\.microsoftonline\.(com|us)"]

# Pygments has no lexer for these, which a page may use.
UNKNOWN_LANGUAGES = ("csv", "mermaid")

# The pages that lead to pages; the headings of the first are those of the navigation.
_LEADING = (root_doc, "docs/clients/README", "docs/troubleshooting")
_LINK = re.compile(r"\]\(([\w./-]+)\.md\)")
# A link to a folder of the repository, which is no page of the site.
_FOLDER = re.compile(r"\[([^\]\n]*)\]\((?!https?:)[^)\s#]*/\)")


def with_navigation(docname: str, text: str) -> str:
    """Return a page's text with the navigation to the pages that it links to, by section."""
    if docname not in _LEADING:
        return text
    seen = {docname}
    added = []
    folder = posixpath.dirname(docname)
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[docname == root_doc :]:
        pages = dict.fromkeys(posixpath.normpath(posixpath.join(folder, each)) for each in _LINK.findall(section))
        # A page below the first leads to what is below its own folder; what else it mentions has its place elsewhere.
        below = "" if docname == root_doc else docname.removesuffix("README").rstrip("/") + "/"
        new = [each for each in pages if each not in seen and each.startswith(below)]
        seen |= {*new}
        if new:
            title = section.partition("\n")[0].partition(":")[0]
            caption = [f":caption: {title}"] if docname == root_doc else []
            added.append("\n".join(["```{toctree}", ":hidden:", *caption, *(f"/{each}" for each in new), "```"]))
    return "\n\n".join([text, *added]) + "\n"


def setup(app: Sphinx) -> None:
    """Have Sphinx call the function above, and show languages that it does not know as text."""

    def read(_: Sphinx, docname: str, source: list[str]) -> None:
        source[0] = _FOLDER.sub(r"\1", with_navigation(docname, source[0]))

    app.connect("source-read", read)
    for language in UNKNOWN_LANGUAGES:
        app.add_lexer(language, TextLexer)
