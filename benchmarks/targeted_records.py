"""What is kept of one world's arms: a small file, from which the tables over worlds are made again without running any.

Between worlds a seed is one observation (`evaluation.experiment`), so the means over its held-out queries are all that
the intervals need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade.errors import InputError
from evaluation.experiment import SeedOutcome
from flows.comparison import ArmResult, Taken
from flows.config import HELD_QUALITY
from flows.outcomes import ArmOutcomes, outcomes_of
from flows.rundir import read_json, write_json


@dataclass(frozen=True)
class ArmRecord:
    """One arm with one seed and one number of answers."""

    outcomes: ArmOutcomes
    """As read from a file, each query of a seed has their mean: intervals need several seeds then."""
    taken: Taken
    row: dict[str, Any]
    """Of the table of single results."""
    commit: str | None
    """The code's that evaluated it."""


def record_of(result: ArmResult) -> ArmRecord:
    """What is kept of a finished arm."""
    commit = read_json(result.folder / "manifest.json")["commit"]
    return ArmRecord(outcomes_of(result, HELD_QUALITY), result.taken(), result.row(), commit)


def write_world(folder: Path, name: str, records: Sequence[ArmRecord]) -> Path:
    """Write `folder`/`name`.json; arms that it has and that are not among these stay. Returns its path."""
    path = folder / f"{name}.json"
    kept = {} if not path.exists() else {_key(row): row for row in read_json(path)}
    kept |= {_key(row): row for row in map(_to_row, records)}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, [kept[key] for key in sorted(kept)])
    return path


def read_world(folder: Path, name: str) -> list[ArmRecord]:
    """The arms that were kept of one world. Raises InputError where there is no such file."""
    path = folder / f"{name}.json"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none"
        raise InputError(f"{path} is not there: run that world first (kept there: {known})")
    return [_from_row(row) for row in read_json(path)]


def _to_row(record: ArmRecord) -> dict[str, Any]:
    means = {name: [float(o.before.mean()), float(o.after.mean())] for name, o in record.outcomes.by_name.items()}
    return {
        "seed": record.outcomes.seed,
        "commit": record.commit,
        "n": len(next(iter(record.outcomes.by_name.values())).before),
        "means": means,
        "taken": asdict(record.taken),
        "row": record.row,
    }


def _from_row(row: dict[str, Any]) -> ArmRecord:
    taken, n = Taken(**row["taken"]), int(row["n"])
    by_name = {
        name: SeedOutcome(np.full(n, before), np.full(n, after)) for name, (before, after) in row["means"].items()
    }
    return ArmRecord(ArmOutcomes(taken.arm, int(row["seed"]), taken.level, by_name), taken, row["row"], row["commit"])


def _key(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["seed"], row["taken"]["level"], row["taken"]["arm"]
