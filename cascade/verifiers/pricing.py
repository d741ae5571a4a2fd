"""What a verifier that asks a model pays for it."""

from __future__ import annotations

from pathlib import Path

from cascade.cost import PriceTable
from cascade.errors import ConfigError
from cascade.tiers import Failure
from cascade.trace import Answer


def require_price(prices: PriceTable, model: str, what: str, prices_file: Path | None) -> None:
    """Raise ConfigError, before anything is spent, when `model` has no price for `what` it is used for."""
    if model not in prices.prices:
        known = ", ".join(sorted(prices.prices)) or "none"
        table = f"the price table {prices_file}" if prices_file else "the price table"
        raise ConfigError(f"no price for model {model!r} ({what}): add it to {table} (it has: {known})")


def outcome_usd(outcome: Answer | Failure, prices: PriceTable) -> float | None:
    """Cost of one request; None when its usage is unknown, or when it failed and may have been billed all the same."""
    if isinstance(outcome, Failure):
        return None if outcome.maybe_billed else 0.0
    return prices.cost_usd(outcome)
