"""What answers cost, and when a cascade pays for itself. All amounts in US dollars."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from cascade.errors import ConfigError
from cascade.trace import Answer


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Price:
    """List price of one model, in US dollars per million tokens."""

    input_per_million: float = Field(ge=0)
    output_per_million: float = Field(ge=0)
    date: datetime.date | None = None
    """The day on which the price was read."""
    source: str | None = None

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """Cost of a request with so many prompt and completion tokens."""
        return (tokens_in * self.input_per_million + tokens_out * self.output_per_million) / 1e6


class PriceTable(BaseModel):
    """Prices by model name, as kept in configs/prices.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prices: Mapping[str, Price]

    @classmethod
    def from_yaml(cls, path: Path) -> PriceTable:
        """Read a table; raises ConfigError when the file is missing or is not one."""
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            return cls.model_validate(content)
        except OSError as error:
            raise ConfigError(f"cannot read the price table {path}: {error.strerror}; check the path") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"the price table {path} is not YAML: {str(error).splitlines()[0]}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"the price table {path} is wrong at {where or 'its top'}: {first['msg']}") from error

    def price(self, model: str) -> Price:
        """Price of a model; raises ConfigError with the known names for one that is not listed."""
        try:
            return self.prices[model]
        except KeyError:
            known = ", ".join(sorted(self.prices)) or "none"
            raise ConfigError(f"no price for model {model!r}; add it to the price table (known: {known})") from None

    def cost_usd(self, answer: Answer) -> float | None:
        """Cost of an answer; None when a token count is unknown. Raises ConfigError for an unlisted model."""
        price = self.price(answer.model)
        if answer.tokens_in is None or answer.tokens_out is None:
            return None
        return price.usd(answer.tokens_in, answer.tokens_out)


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


def escalation_floor(cheap_error: float, target_error: float) -> float:
    """Least escalation rate at which served answers can meet `target_error`: (cheap error - t) / (1 - t).

    Holds for a perfect verifier and a flagship that is always right; both arguments and the result are 0..1.
    """
    if not 0 <= target_error < 1:
        raise ConfigError(f"target error is {target_error}; use a rate from 0 to below 1")
    return max(0.0, (cheap_error - target_error) / (1 - target_error))
