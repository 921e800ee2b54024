"""A platform for controlled DDPM training studies, with Weights & Biases as its record."""

__version__ = "0.1.0"
