"""What the monitor tolerates, and how sure it must be before it calls anybody."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

SPANS = (1, 4)
"""Newest weeks that are tested together: one for a sudden change, four for a small one in little traffic."""
TESTED = 5
"""Checks that rest on samples: escalation, cost, quality, drift, new clusters."""


class MonitorPolicy(BaseModel):
    """Bars of the checks. Rates, shares and margins are 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    escalation_margin: float = Field(0.05, gt=0, lt=1)
    """The escalation rate may lie this much above what was measured at the last promotion."""
    cost_share: float = Field(0.60, gt=0)
    """Highest tolerated cost, as a share of always asking the flagship."""
    price_rise: float = Field(0.10, gt=0)
    """Highest tolerated rise of what the same tokens cost."""
    quality_margin: float = Field(0.02, ge=0, lt=1)
    """Wrong answers among accepted may exceed the verifier's promise (`calibration.max_error_accepted`) by this."""
    verifier_margin: float = Field(0.02, gt=0, lt=1)
    """On the fixed evaluation set the verifier may accept this much more, or less, than it did when it was fitted."""
    drift_auc: float = Field(0.55, gt=0.5, lt=1)
    """How well a classifier may tell this week's queries from the reference's. Where a share s of the week can be told
    apart and the rest not at all the AUC is 0.5 + s / 2: the default tolerates a tenth."""
    new_share: float = Field(0.05, gt=0, lt=1)
    """Highest tolerated share of queries in dense groups that the reference did not have."""
    new_group: int = Field(10, ge=2)
    """Queries of one week that make such a group."""
    weeks_per_false_alarm: float = Field(100.0, ge=1)
    """Weeks of watching a cascade that stands just at its bars, until one false alarm is expected: over all checks."""
    looks_per_week: int = Field(7, ge=1)
    """How often the monitor is run; every look can be a false alarm."""
    min_queries: int = Field(200, ge=20)
    """A span with fewer queries is not tested."""
    weeks: int = Field(8, ge=4)
    """Newest weeks that are looked at."""
    sample: int = Field(2000, ge=100)
    """Queries of a week (and of the reference) that are embedded."""
    reference_days: float = Field(7.0, gt=0)
    """A version that no run has measured is compared with its own first days."""
    replay_rows: int = Field(2000, ge=100)
    """Rows of the fixed evaluation set; a verifier that asks a paid judge pays for every one at every look."""
    remind_days: float = Field(7.0, gt=0)
    """An alarm that stays is told again after so many days."""
    improve_after_days: float = Field(0.0, ge=0)
    """An alarm that an improvement run cures starts one (by its event) once it has stood for so many days. On the first
    day of a drift a run's window holds hardly any of the new traffic, and none in its pool: nothing to learn from."""
    webhook_env: str = "CASCADE_DISTILL_WEBHOOK"
    """Environment variable with a URL that alarms are posted to. The URL may hold a secret, so it is never saved."""
    notify_block: str | None = None
    """Prefect notification block that alarms go to, as `slack-webhook/ops`."""

    @property
    def alpha(self) -> float:
        """One-sided level of one test: the false alarms of all tests of all looks add up (Bonferroni)."""
        return 1 / (self.weeks_per_false_alarm * self.looks_per_week * TESTED * len(SPANS))

    @property
    def confidence(self) -> float:
        """Of the two-sided intervals whose ends are the tests' bounds."""
        return 1 - 2 * self.alpha
