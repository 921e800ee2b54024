"""`ddpm metrics`: the page docs/metrics.md."""

import argparse

HELP = "print the table of every logged metric (docs/metrics.md)"


def run(args: argparse.Namespace) -> None:
    """Print the page."""
    from ddpm.metrics.table import markdown_page

    print(markdown_page(), end="")
