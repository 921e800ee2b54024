"""W&B's views in the package `wandb_workspaces`, and the only use of parts of it that are not public.

Publicly, a `Workspace` is saved under a random name, and no call lists a project's views: saving a study's workspace
again would add another. With its private `_internal_name` and `_internal_id` set, saving replaces the view.
"""

import contextlib
import hashlib
from typing import Any

VERSION = "0.4"  # of the package: tried with these private parts


def fix_view(workspace: Any, key: str) -> None:
    """Have `workspace.save` write the view that belongs to `key`: make it, or replace its content."""
    # Hexadecimal: the client does not find a view again if its name has another `nw-` or `-v`, or ends in `nw`.
    workspace._internal_name = f"nw-{hashlib.sha256(key.encode()).hexdigest()[:11]}-v"
    with contextlib.suppress(ValueError):  # the view does not exist yet
        workspace._internal_id = type(workspace).from_url(workspace.url)._internal_id
