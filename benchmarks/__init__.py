"""Benchmarks: costs as ratios, measured in one run on one machine; a script for each subject. `make bench` runs all."""
