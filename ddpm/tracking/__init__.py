"""What is kept of a run: its folder, which is the truth, and W&B, which mirrors it."""
