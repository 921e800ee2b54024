"""The protocol of a score: what makes two numbers comparable, and its fingerprint."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """All that a score depends on besides weights and noise. Numbers compare only under equal protocols.

    t_start: where the sampler's chain begins; None for T - 1. settings: how a score other than FID is computed.
    """

    features: str
    resize: str
    reference: str
    reference_digest: str
    reference_n: int
    n_samples: int
    sampler: str
    nfe: int
    spacing: str
    eta: float
    x0_limit: str
    adjacent_posterior: bool
    weights: str
    t_start: int | None = None
    settings: str | None = None

    @property
    def fingerprint(self) -> str:
        """The features' name and 8 hex digits over every field."""
        digest = hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.features}-{digest}"

    def describe(self) -> dict[str, Any]:
        """The fields as plain values, as they are logged."""
        return {key: value for key, value in asdict(self).items() if value is not None}
