"""The record of a trial of placements; see `store.ledger.records` for what holds of all records."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PlacementTrial:
    """A trial of the places where a prompt may carry a behaviour's instruction, on some dreams."""

    night_id: str
    behaviour: str
    model: str
    rule: str
    placement: str | None
    dreams: int
    alone: int
    told: dict[str, int]

    @property
    def lift(self) -> int:
        """The passes that the best placement has beyond the passes without the instruction."""
        return max(self.told.values(), default=0) - self.alone
