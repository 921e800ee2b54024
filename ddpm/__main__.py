"""`python -m ddpm`, the same as the `ddpm` command; under torchrun, one process of several."""

import os
import sys

from ddpm.cli import main

if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
    from ddpm.distributed import run  # imports torch

    sys.exit(run(main))
sys.exit(main())
