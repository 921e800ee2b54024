"""What this project costs, as ratios measured in one run on one machine: a script for each claim; `make bench`."""
