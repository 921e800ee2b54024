"""docs/findings.md and docs/rerun.md: what the study's rerun shows, from the records of its runs alone."""
