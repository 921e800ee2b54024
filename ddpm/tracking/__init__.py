"""A run's record: its folder, which is the truth, and W&B, which mirrors it."""
