"""Names chosen by others -> text that is safe to show: a single line.

In HTML the templates escape everything; Markdown, CSV and LaTeX are escaped here.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

NAME_CHARS = 60  # on a page
CELL_CHARS = 160  # in a Markdown table
# Characters that begin a formula in a spreadsheet, including full-width forms.
_FORMULA = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def shown(name: object) -> str:
    """A name that a page can show: one line without control characters, and not too long."""
    text = one_line(name) or "(no name)"
    return text if len(text) <= NAME_CHARS else text[: NAME_CHARS - 1] + "…"


def one_line(text: object) -> str:
    """A text without line breaks, and without characters that affect its display: control
    characters, changes of writing direction, lone surrogates."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def markdown_cell(name: object) -> str:
    """A name in Markdown: one line that cannot end a table cell or become HTML or a link."""
    text = one_line(name)
    return markdown_text(text if len(text) <= CELL_CHARS else text[: CELL_CHARS - 1] + "…")


def markdown_line(text: str) -> str:
    """A sentence that readers must know, whole and on one line: a name in it may be anything."""
    return markdown_text(one_line(text))


def markdown_text(text: str) -> str:
    """A sentence in Markdown without formatting, HTML or links."""
    text = re.sub(r"[&<>|\[\]`*\\]", lambda found: f"&#{ord(found[0])};", text)
    for code, plain in (("&#38;", "&amp;"), ("&#60;", "&lt;"), ("&#62;", "&gt;")):
        text = text.replace(code, plain)
    # Many renderers turn bare addresses into links.
    text = re.sub(r"(?i)\b(https?|ftp|mailto|xmpp|javascript|data):", r"\1&#58;", text)
    text = re.sub(r"(?i)\bwww\.", "www&#46;", text)
    return re.sub(r"@(?=[\w.-]*[.][A-Za-z])", "&#64;", text)


def csv_cell(text: str) -> str:
    """A name in a CSV file that no spreadsheet reads as a formula."""
    line = text if text.isprintable() else one_line(text)
    return f"'{line}" if _FORMULA & {text[:1], line[:1]} else line


_LATEX = {
    **{c: f"\\{c}" for c in "{}$&#_%"},
    **{"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}"},
    "…": r"\ldots{}",  # of names that were cut
}


def latex_cell(text: object) -> str:
    """A text in a cell of a LaTeX table: one line without commands.

    Non-Latin letters, which not every engine has, become their code points. The braces keep a
    leading bracket from being read as an argument of the preceding line break.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())

    def escaped(c: str) -> str:
        plain = c.isascii() or (c.isalpha() and ord(c) < 0x180)
        return _LATEX.get(c) or (c if plain else f"U+{ord(c):04X}")

    return f"{{{''.join(map(escaped, line))}}}"


@cache
def templates(room: str) -> Environment:
    """The templates of a subpackage; they escape everything that they are given.

    Args:
        room: Dotted name of the package with the folder `templates`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(room, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
