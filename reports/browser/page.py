"""The files of the page: ours, and plotly.js from its Python package."""

from functools import lru_cache
from importlib import resources

# Name -> content type. The page itself has an empty name.
FILES = {
    "": "text/html",
    "page.js": "text/javascript",
    "page.css": "text/css",
    "plotly.js": "text/javascript",
}


@lru_cache
def content(name: str, *, live: bool) -> bytes:
    """The file `name`. `live`: the page asks a server for its data, and again as runs grow; else it reads files."""
    if name == "plotly.js":
        return (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    text = (resources.files(__package__) / (name or "page.html")).read_bytes()
    return text if name or live else text.replace(b'data-live="yes"', b'data-live="no"')
