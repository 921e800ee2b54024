"""`ddpm metrics`: the page docs/metrics.md."""

import argparse
from typing import Any


def add(verbs: Any) -> argparse.ArgumentParser:
    """Declare the verb."""
    return verbs.add_parser("metrics", help="print the table of every logged metric (docs/metrics.md)")


def run(args: argparse.Namespace) -> None:
    """Print the page."""
    from ddpm.metrics.table import markdown_page

    print(markdown_page(), end="")
