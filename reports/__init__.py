"""Reports: from finished runs to numbers, figures, verdicts and pages. Knows metric names, never a model."""
