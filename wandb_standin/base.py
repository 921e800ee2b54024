"""Building blocks for the GraphQL types: a base class, W&B's ids, pages of a list, numbers as W&B sends them, files."""

import base64
import hashlib
import math
import mimetypes
from typing import TYPE_CHECKING, Any

from wandb_standin.records import now

if TYPE_CHECKING:
    from wandb_standin.server import StandIn


class RefusedError(Exception):
    """A request that the real server would refuse too. The client gets the text."""


def global_id(*parts: str) -> str:
    """An id in W&B's form: base64 of the type and the names."""
    return base64.b64encode(":".join(parts).encode()).decode()


def connection(nodes: list[Any], first: int | None = None, after: str | None = None) -> dict[str, Any]:
    """One page of a list; the cursor is the number of nodes up to it."""
    start = int(after or 0)
    end = len(nodes) if first is None else min(start + first, len(nodes))
    edges = [{"node": node, "cursor": str(start + i + 1)} for i, node in enumerate(nodes[start:end])]
    info = {"__typename": "PageInfo", "endCursor": str(end), "hasNextPage": end < len(nodes)}
    return {"edges": edges, "pageInfo": info, "totalCount": len(nodes)}


def finite(value: Any) -> Any:
    """Replace NaN and infinities by the strings that W&B sends for them."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


class Type:
    """A GraphQL type over the stand-in's records."""

    def __init__(self, server: "StandIn"):
        self._server = server


class File(Type):
    """A file of a run or of an artifact version; its bytes are behind the stand-in's own URL."""

    def __init__(self, server: "StandIn", name: str, storage_path: str, content: bytes):
        super().__init__(server)
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        self.id = global_id("File", storage_path)
        self.name = self.display_name = name
        self.direct_url = server.storage_url(storage_path)
        self.size_bytes = len(content)
        self.md5 = self.digest = md5
        self.mimetype = mimetypes.guess_type(name)[0]
        self.updated_at = now()
        self.storage_path = storage_path
        self.upload_url = self.direct_url
        self.upload_headers: list[str] = []

    def url(self, upload: bool = False) -> str:
        return self.direct_url
