"""Text from runs in Markdown and HTML: every value of a template is escaped, unless it says that it is mark-up."""

import base64
import html
import re
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import jinja2
import markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor

_LONGEST_LABEL = 40  # characters of a line's first cell, above which it is a sentence
# At the start of a line: a heading, a list, a number with a point.
_LINE_START = re.compile(r"^(#|[-+](?= )|\d+[.)](?= ))")


class Markdown(str):
    """Text that is Markdown already: templates leave it as it is."""


def template(name: str) -> jinja2.Template:
    """A page's template. What it inserts is escaped for Markdown by the engine, whatever it is and wherever it stands;
    `code` makes a value a code span, `verbatim` a line of a code block, `md` says that a text of ours is Markdown."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=_finished, keep_trailing_newline=True)
    environment.filters |= {"code": code, "verbatim": verbatim, "md": Markdown}
    return environment.from_string((resources.files("reports") / name).read_text(encoding="utf-8"))


def _finished(value: Any) -> Markdown:
    return value if isinstance(value, Markdown) else text(value)


def text(value: Any) -> Markdown:
    """Running text in one line: what Markdown or HTML would take for mark-up is escaped (`val_loss`, `a < b`)."""
    escaped = _in_one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"([\\`*_\[\]|])", r"\\\1", escaped).replace("~~", "&#126;&#126;")
    return Markdown(_LINE_START.sub(_escaped_start, escaped))


def _escaped_start(match: re.Match[str]) -> str:
    return f"{match[0][:-1]}\\{match[0][-1]}"


def code(value: Any) -> Markdown:
    """A value in code type, safe inside a table cell; empty for an empty one."""
    inner = _in_one_line(value).replace("`", "'").replace("|", "¦")
    if inner.endswith("\\"):
        inner += " "  # a backslash before the closing mark would take it for text
    return Markdown(f"`{inner}`" if inner.strip() else "")


def verbatim(value: Any) -> Markdown:
    """A line of a code block: nothing in it is mark-up, as long as it is one line."""
    return Markdown(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "\ufffd", str(value)))


def link(label: Markdown, address: str | None) -> Markdown:
    """`label` as a link to a page of the web; the label alone for any other address."""
    if not address or not re.fullmatch(r"https?://[^\s<>()\[\]\\\x00-\x20\x7f-\x9f]+", address):
        return label
    return Markdown(f"[{label}]({address})")


def _in_one_line(value: Any) -> str:
    return " ".join(str(value).split())


# ---- HTML ------------------------------------------------------------------------------------------------


def html_page(page: str, folder: Path, title: str) -> str:
    """`report.html` from the Markdown `page`: its images, which lie in `folder`, become data URIs. HTML in the Markdown
    is text."""
    body = markdown.markdown(page, extensions=["tables", _NoHtml(), _Inlined(folder)])
    body = re.sub(r"<p>(<img [^>]*>)</p>\s*<p><em>(.*?)</em></p>", _figure, body, flags=re.DOTALL)
    body = re.sub(r"<table>.*?</table>", _table, body, flags=re.DOTALL)
    read = resources.files("reports.text")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True, keep_trailing_newline=True)
    shell = environment.from_string((read / "page.html.jinja").read_text(encoding="utf-8"))
    return shell.render(title=title, style=(read / "report.css").read_text(encoding="utf-8"), body=body)


class _NoHtml(Extension):
    """No raw HTML, no `<http://...>`, no links by reference: a page of ours has none of them."""

    def extendMarkdown(self, md: markdown.Markdown) -> None:  # noqa: N802 - the name that is called
        md.preprocessors.deregister("html_block")
        md.parser.blockprocessors.deregister("reference")
        for name in ("html", "autolink", "automail"):
            md.inlinePatterns.deregister(name)


class _Inlined(Extension):
    """Images as data URIs."""

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder

    def extendMarkdown(self, md: markdown.Markdown) -> None:  # noqa: N802
        md.treeprocessors.register(_Images(self._folder), "inlined", 1)  # after those that make the images


class _Images(Treeprocessor):
    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder

    def run(self, root: Element) -> None:
        for image in root.iter("img"):
            content = (self._folder / image.get("src", "")).read_bytes()
            image.set("src", "data:image/png;base64," + base64.b64encode(content).decode())


def _figure(match: re.Match[str]) -> str:
    return f"<figure>{match.group(1)}<figcaption>{match.group(2)}</figcaption></figure>"


def _table(match: re.Match[str]) -> str:
    """A table in a box that scrolls; one whose lines begin with sentences is `prose`: they may wrap, as unbroken they
    push the other columns out of sight."""
    firsts = re.findall(r"<tr>\s*<td[^>]*>(.*?)</td>", match.group(0), flags=re.DOTALL)
    longest = max((len(html.unescape(re.sub(r"<[^>]*>", "", first))) for first in firsts), default=0)
    kind = "table prose" if longest > _LONGEST_LABEL else "table"
    return f'<div class="{kind}">{match.group(0)}</div>'
