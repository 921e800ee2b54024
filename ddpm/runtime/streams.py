"""Random streams: each has an owner and a seed of its own, so that none moves another."""

import hashlib


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one named random stream of a run: equal for equal (seed, stream), unrelated between streams."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:7])
