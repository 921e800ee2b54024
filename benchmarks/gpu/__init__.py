"""The check of a GPU: `python -m benchmarks.gpu --help`."""
