"""Text from runs in Markdown and HTML. Templates escape every value that is not marked as Markdown."""

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

_LONGEST_LABEL = 40  # a table row's first cell with more characters counts as a sentence
# A text from a run cannot make one: templates escape its `<` at the start of a line.
_FOLDED = re.compile(r"^<details>\n<summary>([^\n]+)</summary>\n(.*?)^</details>$", re.MULTILINE | re.DOTALL)
# Mark-up at the start of a line: a heading, a list, a numbered list.
_LINE_START = re.compile(r"^(#|[-+](?= )|\d+[.)](?= ))")


class Markdown(str):
    """Text that is Markdown already: templates insert it unchanged."""


def template(name: str) -> jinja2.Template:
    """The page template `name`, a path below `reports/`. It escapes every inserted value for Markdown.

    Filters: `code` makes a code span, `verbatim` a line of a code block; `md` marks our own Markdown.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=_finished, keep_trailing_newline=True)
    environment.filters |= {"code": code, "verbatim": verbatim, "md": Markdown}
    return environment.from_string((resources.files("reports") / name).read_text(encoding="utf-8"))


def _finished(value: Any) -> Markdown:
    return value if isinstance(value, Markdown) else text(value)


def text(value: Any) -> Markdown:
    """`value` as running text in one line. Mark-up of Markdown and HTML is escaped (`val_loss`, `a < b`)."""
    escaped = _in_one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"([\\`*_\[\]|])", r"\\\1", escaped).replace("~~", "&#126;&#126;")
    return Markdown(_LINE_START.sub(lambda start: f"{start[0][:-1]}\\{start[0][-1]}", escaped))


def code(value: Any) -> Markdown:
    """`value` as a code span that is safe in a table cell; empty for an empty value."""
    inner = _in_one_line(value).replace("`", "'").replace("|", "¦")
    if inner.endswith("\\"):
        inner += " "  # a backslash would escape the closing mark
    return Markdown(f"`{inner}`" if inner.strip() else "")


def verbatim(value: Any) -> Markdown:
    """`value` as one line of a code block, where nothing is mark-up."""
    return Markdown(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "\ufffd", str(value)))


def link(label: Markdown, address: str | None) -> Markdown:
    """`label` as a link to a web page; the label alone for any other address."""
    if not address or not re.fullmatch(r"https?://[^\s<>()\[\]\\\x00-\x20\x7f-\x9f]+", address):
        return label
    return Markdown(f"[{label}]({address})")


def _in_one_line(value: Any) -> str:
    return " ".join(str(value).split())


# ---- HTML ------------------------------------------------------------------------------------------------


def write_page(page: str, folder: Path, title: str) -> None:
    """Write the Markdown `page` as `report.md` and `report.html` into `folder`, which holds its images."""
    page = re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"
    (folder / "report.md").write_text(page, encoding="utf-8")
    (folder / "report.html").write_text(html_page(page, folder, title), encoding="utf-8")


def sections(page: str) -> list[tuple[str, str]]:
    """(title, Markdown) of each part of the page in order. The parts that a page folds by `<details>` have a title, the
    text between them has none."""
    pieces = _FOLDED.split(page)
    found = [("", pieces[0])]
    for title, inside, after in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        found += [(title, inside), ("", after)]
    return [(title, inside) for title, inside in found if title or inside.strip()]


def _section(title: str, inside: str, folder: Path) -> str:
    body = markdown.markdown(inside, extensions=["tables", _NoHtml(), _Inlined(folder)])
    return (
        f"<details>\n<summary><h2>{html.escape(title)}</h2></summary>\n{body}\n</details>\n" if title else body + "\n"
    )


def html_page(page: str, folder: Path, title: str) -> str:
    """The Markdown `page` as HTML. Its images, which lie in `folder`, become data URIs; HTML in it becomes text."""
    body = "".join(_section(title, inside, folder) for title, inside in sections(page))
    body = re.sub(r"<p>(<img [^>]*>)</p>\s*<p><em>(.*?)</em></p>", _figure, body, flags=re.DOTALL)
    body = re.sub(r"<table>.*?</table>", _table, body, flags=re.DOTALL)
    read = resources.files("reports.text")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True, keep_trailing_newline=True)
    shell = environment.from_string((read / "page.html.jinja").read_text(encoding="utf-8"))
    return shell.render(title=title, style=(read / "report.css").read_text(encoding="utf-8"), body=body)


class _NoHtml(Extension):
    """Turns off raw HTML, `<http://...>` and links by reference, which our pages do not use."""

    def extendMarkdown(self, md: markdown.Markdown) -> None:  # noqa: N802 - markdown's name
        md.preprocessors.deregister("html_block")
        md.parser.blockprocessors.deregister("reference")
        for name in ("html", "autolink", "automail"):
            md.inlinePatterns.deregister(name)


class _Inlined(Extension, Treeprocessor):
    """Replaces images, files in a folder, by data URIs."""

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder

    def extendMarkdown(self, md: markdown.Markdown) -> None:  # noqa: N802
        md.treeprocessors.register(self, "inlined", 1)  # after those that make the images

    def run(self, root: Element) -> None:
        for image in root.iter("img"):
            content = (self._folder / image.get("src", "")).read_bytes()
            image.set("src", "data:image/png;base64," + base64.b64encode(content).decode())


def _figure(match: re.Match[str]) -> str:
    return f"<figure>{match.group(1)}<figcaption>{match.group(2)}</figcaption></figure>"


def _table(match: re.Match[str]) -> str:
    """A table in a box that scrolls. If rows begin with sentences it is `prose`, whose first column may wrap."""
    firsts = re.findall(r"<tr>\s*<td[^>]*>(.*?)</td>", match.group(0), flags=re.DOTALL)
    longest = max((len(html.unescape(re.sub(r"<[^>]*>", "", first))) for first in firsts), default=0)
    kind = "table prose" if longest > _LONGEST_LABEL else "table"
    return f'<div class="{kind}">{match.group(0)}</div>'
