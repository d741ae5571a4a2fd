"""The arms of a comparison: how each chooses what to buy, what it trains on, and what it leaves out.

An arm is a choice and a few changes of the run's configuration; everything else is the run's own. `targeted` is what an
improvement run does. An ablation is `targeted` with one ingredient taken out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cascade.errors import InputError

Choice = Literal["cluster worth", "all traffic", "escalated", "least sure", "largest gaps"]
Answers = Literal["trained", "champion", "nearest"]
"""Who answers in place of the cheap tier: the adapter trained on the arm's answers, the champion as it is, or nobody:
the answer to the nearest answered query is served."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to spend a number of flagship answers."""

    name: str
    what: str
    """One phrase for tables and reports."""
    choose: Choice
    answers: Answers = "trained"
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings laid over the run's configuration."""


TARGETED = Arm("targeted", "where an answer is expected to save most, cluster by cluster", "cluster worth")
UNTARGETED = Arm("untargeted", "random queries of all traffic", "all traffic")
ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        TARGETED,
        UNTARGETED,
        Arm("random-within-escalated", "random escalations", "escalated"),
        Arm("margin-sampling", "queries on which the verifier is least decided", "least sure"),
        Arm("largest-gaps", "RouteNLP's choice: k-means clusters of largest size x quality gap", "largest gaps"),
        Arm("labels-alone", "targeted answers, for the verifier to compare with; nothing is trained", "cluster worth",
            "champion"),
        Arm("retrieval-alone", "targeted answers, served for the queries around them", "cluster worth", "nearest"),
        Arm("targeted-without-replay", "targeted, the student's own answers not replayed", "cluster worth",
            changes={"training_set": {"replay_ratio": 0.0}}),
        Arm("targeted-anywhere", "targeted, also where the cheap tier knows the queries around", "cluster worth",
            changes={"target": {"min_teachable": 0.0}}),
    )
}  # fmt: skip
MAIN = ("targeted", "untargeted", "random-within-escalated", "labels-alone", "retrieval-alone")
"""What `compare` runs unless told otherwise: three trainings, and two arms that train nothing."""


def choose_arms(names: Sequence[str]) -> list[Arm]:
    """The arms of these names, `targeted` first: it says how many answers and training tokens the others get. Raises
    InputError for a name that is none."""
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise InputError(f"--arms names {unknown[0]!r}: give some of {', '.join(ARMS)} with commas, or all")
    rest = [name for name in dict.fromkeys(names) if name != TARGETED.name]
    return [ARMS[name] for name in (TARGETED.name, *rest)]
