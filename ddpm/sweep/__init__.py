"""Sweeps without a server: W&B's sweep files enumerated and run here; and points of a server's sweep run again."""
