"""Shows text in figures unchanged: nothing becomes mathematics, and letters that a font lacks come from another."""

import sys
import unicodedata
import warnings
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterMathtext

_told: set[str] = set()  # letters that a message has already named as missing


class PlainFigure(Figure):
    """A figure whose titles, labels and legends show any text, such as a run's name, unchanged."""

    def draw(self, renderer: RendererBase) -> None:
        powers = {label for axes in self.axes for label in _powers(axes)}
        for text in self.findobj(Text):
            if isinstance(text, Text) and text not in powers:
                _as_it_is(text)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # `_as_it_is` prints one line instead
            super().draw(renderer)


def _powers(axes: Axes) -> set[Text]:
    """The tick labels that matplotlib writes as mathematics: 10^3."""
    found = set()
    for axis in (axes.xaxis, axes.yaxis):
        for ticks, formatter in (
            (axis.get_major_ticks(), axis.get_major_formatter()),
            (axis.get_minor_ticks(), axis.get_minor_formatter()),
        ):
            if isinstance(formatter, LogFormatterMathtext):
                found |= {label for tick in ticks for label in (tick.label1, tick.label2)}
    return found


def _as_it_is(text: Text) -> None:
    text.set_parse_math(False)
    said = drawable(text.get_text())
    if said != text.get_text():
        text.set_text(said)
    if said.isascii():
        return
    known = _letters_in(str(findfont(text.get_fontproperties())))
    lacking = sorted({letter for letter in said if letter != "\n" and ord(letter) not in known})
    found = [_family_with(letter) for letter in lacking]
    families = text.get_fontfamily()
    text.set_fontfamily([*families, *dict.fromkeys(name for name in found if name and name not in families)])
    new = {letter for letter, name in zip(lacking, found, strict=True) if not name} - _told
    if new:
        _told.update(new)
        print(
            f"note: no installed font has {len(new)} letter(s) in a figure's text ({' '.join(sorted(new)[:9])}); the "
            "figure shows boxes. Noto Sans CJK and Noto Emoji have most letters.",
            file=sys.stderr,
        )


def drawable(text: str) -> str:
    """`text` with U+FFFD for control characters, halves of surrogate pairs and codes that XML forbids.

    `PlainFigure` calls it for all text but tick labels, which matplotlib makes while it draws.
    """
    return "".join(map(_drawable, text))


def _drawable(letter: str) -> str:
    if letter == "\t":
        return " "
    is_none = unicodedata.category(letter) in ("Cc", "Cs") or ord(letter) & 0xFFFE == 0xFFFE
    return "\N{REPLACEMENT CHARACTER}" if is_none and letter != "\n" else letter


@cache
def _letters_in(font: str) -> frozenset[int]:
    try:
        return frozenset(get_font(font).get_charmap())
    except (RuntimeError, OSError):  # matplotlib cannot draw with it, as with fonts of coloured bitmaps
        return frozenset()


@cache
def _family_with(letter: str) -> str | None:
    """An installed font family that has `letter`, except matplotlib's mathematics fonts, whose codes differ."""
    own = Path(matplotlib.get_data_path())
    for font in sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", font.weight != 400, font.name)):
        mathematics = own in Path(font.fname).parents and not font.name.startswith(("DejaVu", "STIXGeneral"))
        if not mathematics and font.name != "DejaVu Sans" and ord(letter) in _letters_in(str(font.fname)):
            return str(font.name)
    return None
