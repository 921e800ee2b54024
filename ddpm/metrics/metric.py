"""One row of the table of metrics."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One logged quantity. `label` and `unit` are what a figure's axis shows."""

    key: str
    label: str
    unit: str
    when: str
    cost: str
    meaning: str

    @property
    def axis(self) -> str:
        """The axis label, e.g. `time in probes (s)`."""
        return f"{self.label} ({self.unit})" if self.unit else self.label
