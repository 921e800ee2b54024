"""What a benchmark says: each claim with its measurement and its target."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """`measured` must not exceed `target`, or with `least` must reach it, where there is one."""

    claim: str
    measured: float
    unit: str = ""
    target: float | None = None
    least: bool = False

    @property
    def holds(self) -> bool | None:
        if self.target is None:
            return None
        return self.measured >= self.target if self.least else self.measured <= self.target


def report(claims: list[Claim]) -> list[Claim]:
    """The claims, printed: what takes long is not lost with what comes after it."""
    for c in claims:
        target, holds = ("", "") if c.target is None else (f"{c.target:.4g}", "yes" if c.holds else "NO")
        print(f"{c.claim:86}{f'{c.measured:.4g} {c.unit}':>14}{target:>9}  {holds}", flush=True)
    return claims
