"""Random streams: each has its own owner and seed, so that none affects another."""

import hashlib


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one of a run's named random streams; unrelated between streams."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:7])
