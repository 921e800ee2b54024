"""The `ddpm` command, also as `python -m ddpm`; under torchrun, one of several processes."""

import signal

# Ctrl-C during the imports ends the program without a traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
import sys


def run() -> int:
    """Run the command line; the exit code."""
    several = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if several:
        from ddpm.runtime import distributed  # imports torch
    from ddpm.commands.cli import main

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `main` handles it from here on
    return distributed.run(main) if several else main()


if __name__ == "__main__":
    sys.exit(run())
