"""Scoring samples: features, distances between their distributions, and what makes a number comparable."""
