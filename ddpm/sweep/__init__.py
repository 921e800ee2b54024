"""Runs the points of W&B's sweep files without a server, and lost points of a server's sweep again."""
