"""What answers cost, and when a cascade pays for itself. All amounts in US dollars."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as record
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from cascade.errors import ConfigError
from cascade.trace import Answer


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Price:
    """List price of one model, in US dollars per million tokens."""

    input_per_million: float = Field(ge=0)
    output_per_million: float = Field(ge=0)
    date: datetime.date | None = None
    """The day from which the price holds (`from` in the file; `date` in the flat form)."""
    source: str | None = None
    cached_input_per_million: float | None = Field(default=None, ge=0)
    """Price of prompt tokens that the provider had in its cache; None charges them like others."""

    def usd(self, tokens_in: int, tokens_out: int, tokens_cached: int = 0) -> float:
        """Cost of a request with so many prompt and completion tokens; `tokens_cached` of the prompt's were cached."""
        cached = self.input_per_million if self.cached_input_per_million is None else self.cached_input_per_million
        fresh = tokens_in - tokens_cached
        return (fresh * self.input_per_million + tokens_cached * cached + tokens_out * self.output_per_million) / 1e6


class ComputePrices(BaseModel):
    """What own compute costs, in US dollars per hour; None makes the cost of training on it unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usd_per_gpu_hour: float | None = Field(default=None, ge=0)
    usd_per_cpu_hour: float | None = Field(default=None, ge=0)
    """Of one core."""

    def usd(self, seconds: float, device: Literal["gpu", "cpu"], units: int = 1) -> float | None:
        """Cost of `units` GPUs or cores for so long; None where the table has no price for them."""
        rate = self.usd_per_gpu_hour if device == "gpu" else self.usd_per_cpu_hour
        return None if rate is None else seconds / 3600 * units * rate


class PriceTable(BaseModel):
    """Prices by model name, as kept in configs/prices.yaml.

    A model's entry is a list of dated prices, each in force from its day until the next one's; or, in the flat form,
    a single price that holds at any time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prices: Mapping[str, tuple[Price, ...]]
    """Oldest first."""
    compute: ComputePrices = ComputePrices()
    _path: Path | None = PrivateAttr(default=None)

    @field_validator("prices", mode="before")
    @classmethod
    def _as_lists(cls, prices: Any) -> Any:
        if not isinstance(prices, Mapping):
            return prices
        return {model: _entries(str(model), entry) for model, entry in prices.items()}

    @field_validator("prices")
    @classmethod
    def _in_order(cls, prices: Mapping[str, tuple[Price, ...]]) -> Mapping[str, tuple[Price, ...]]:
        return {model: tuple(sorted(entries, key=_day)) for model, entries in prices.items()}

    @classmethod
    def from_yaml(cls, path: Path) -> PriceTable:
        """Read a table; raises ConfigError when the file is missing or is not one."""
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            table = cls.model_validate(content)
        except OSError as error:
            raise ConfigError(f"cannot read the price table {path}: {error.strerror}; check the path") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"the price table {path} is not YAML: {str(error).splitlines()[0]}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"the price table {path} is wrong at {where or 'its top'}: {first['msg']}") from error
        table._path = Path(path)
        return table

    def undated(self) -> PriceTable:
        """The newest price of every model, at any time: for records whose times say nothing of what was paid."""
        newest = {model: (replace(entries[-1], date=None),) for model, entries in self.prices.items()}
        table = self.model_copy(update={"prices": newest})
        table._path = self._path
        return table

    def price(self, model: str, at: datetime.datetime | None = None) -> Price:
        """Price of a model in force at a time (UTC), the newest one without a time.

        Raises ConfigError, naming the table and what to add, for a model or a time that it does not cover.
        """
        table = "the price table" if self._path is None else f"the price table {self._path}"
        if model not in self.prices:
            known = ", ".join(sorted(self.prices)) or "none"
            raise ConfigError(
                f"no price for model {model!r} in {table}: add input_per_million and output_per_million under"
                f" prices.{model} (known: {known})"
            )
        entries = self.prices[model]
        if at is None or (len(entries) == 1 and entries[0].date is None):
            return entries[-1]
        day = at.astimezone(datetime.UTC).date() if at.tzinfo else at.date()
        past = [price for price in entries if _day(price) <= day]
        if not past:
            raise ConfigError(
                f"no price for model {model!r} on {day} in {table}: its first entry is from {entries[0].date}; add the"
                f" one that was in force under prices.{model}"
            )
        return past[-1]

    def cost_usd(self, answer: Answer, at: datetime.datetime | None = None) -> float | None:
        """Cost of an answer at the price in force at a time, the newest one without a time.

        None when a token count is unknown. Raises ConfigError as `price` does.
        """
        price = self.price(answer.model, at)
        if answer.tokens_in is None or answer.tokens_out is None:
            return None
        return price.usd(answer.tokens_in, answer.tokens_out)


def _entries(model: str, entry: Any) -> Any:
    if isinstance(entry, Price):
        return (entry,)
    if isinstance(entry, Mapping):
        return (_flat(entry),)
    if not isinstance(entry, Sequence) or isinstance(entry, str) or not entry:
        raise ValueError(f"{model} needs a price or a list of dated prices, not {entry!r}")
    return tuple(_dated(model, each) for each in entry)


def _flat(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A single price holds at any time, whatever day it was read on; the day stays with its source."""
    read = entry.get("date")
    if read is None:
        return entry
    source = entry.get("source")
    return {k: v for k, v in entry.items() if k != "date"} | {"source": f"{source or 'unnamed'}, read {read}"}


def _dated(model: str, entry: Any) -> Any:
    if isinstance(entry, Price):
        return entry
    if not isinstance(entry, Mapping) or "from" not in entry:
        raise ValueError(f"each price in the list of {model} needs `from`, the day from which it holds")
    return {**{k: v for k, v in entry.items() if k != "from"}, "date": entry["from"]}


def _day(price: Price) -> datetime.date:
    return price.date or datetime.date.min


def sequential_cost(small: float, verifier: float, large: float, escalation_rate: float) -> float:
    """Expected cost per query of a cascade: small + verifier + escalation_rate x large.

    The verifier sees every request, so every request pays for it.
    """
    return small + verifier + escalation_rate * large


def break_even_rate(small: float, verifier: float, large: float) -> float:
    """Escalation rate (0..1) below which the cascade is cheaper than the flagship alone: (L - S - V) / L.

    0.0 means that it never pays. Raises ConfigError unless the flagship costs something.
    """
    if large <= 0:
        raise ConfigError(f"the flagship's cost per query is {large}; a break-even needs a positive one")
    return max(0.0, (large - small - verifier) / large)


def blog_cost(small: float, verifier: float, large: float, escalation_rate: float) -> float:
    """The common blog form, small + e x (verifier + large): charges the verifier on escalations only.

    It understates the cost of any verifier that judges every request. For comparison, never as a headline.
    """
    return small + escalation_rate * (verifier + large)


def blog_break_even_rate(small: float, verifier: float, large: float) -> float:
    """Break-even rate of `blog_cost`: (L - S) / (V + L). For comparison only."""
    if large <= 0:
        raise ConfigError(f"the flagship's cost per query is {large}; a break-even needs a positive one")
    return max(0.0, (large - small) / (verifier + large))


def uncharged_cost(small: float, large: float, escalation_rate: float) -> float:
    """A router's account, (1 - e) x small + e x large: the cheap call of an escalated query is not charged.

    UCCI (Kotte 2026, equation 1) reports its saving so. It holds for a router that decides before the cheap call; a
    cascade has made that call by the time it decides. For comparison only.
    """
    return (1 - escalation_rate) * small + escalation_rate * large


def cost_per_completed(total_cost_usd: float | None, n_completed: int) -> float | None:
    """All that was paid over the queries that were completed, in USD.

    A query that failed (no answer, or one that nobody could use) belongs into the total and is not completed. None when
    the total is unknown or nothing was completed.
    """
    return total_cost_usd / n_completed if total_cost_usd is not None and n_completed else None


@record(frozen=True, slots=True)
class Payback:
    """How many queries a run takes to pay for itself."""

    queries: int | None
    why: str
    """The sum, or why there is none."""


def payback(run_cost_usd: float | None, saved_per_query_usd: float | None) -> Payback:
    """Queries until a saving per query has paid what making it cost, rounded up."""
    if run_cost_usd is None:
        return Payback(None, "unknown: the run's cost is not known")
    if saved_per_query_usd is None:
        return Payback(None, "unknown: the saving per query is not known")
    if saved_per_query_usd <= 0:
        return Payback(None, "never: nothing is saved")
    queries = math.ceil(run_cost_usd / saved_per_query_usd - 1e-9)
    return Payback(queries, f"the run cost ${run_cost_usd:,.4f} and saves ${1000 * saved_per_query_usd:,.4f} per 1,000")


def escalation_floor(cheap_error: float, target_error: float) -> float:
    """Least escalation rate at which accepted answers can meet `target_error`: (cheap error - t) / (1 - t).

    A perfect verifier escalates e wrong answers and leaves (cheap error - e) / (1 - e) wrong among the accepted. Both
    arguments and the result are rates 0..1.
    """
    if not 0 <= target_error < 1:
        raise ConfigError(f"target error is {target_error}; use a rate from 0 to below 1")
    return max(0.0, (cheap_error - target_error) / (1 - target_error))
