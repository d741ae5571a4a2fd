"""What the worlds of real queries share: a base model that knows some intents, and traffic that brings others.

A data set of queries with their intents becomes a world by saying which of its domains are new. The base model learns
the training split of all others; the traffic is made of queries that it has not seen, and its later weeks bring the
new domains and questions out of scope. Everything made here is kept under a digest of what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cascade.errors import ConfigError, InputError
from lab.files import write_jsonl
from lab.intent_model import BASE_MODEL, EMBEDDER, BaseModelConfig, Item, train_base_model
from lab.traffic import WEEK, TrafficConfig
from lab.world import LabConfig, Prepared

OUT_OF_SCOPE = "oos"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class IntentData:
    """A data set and what of it the base model never sees."""

    name: str
    """Of the world: begins the names of its folders and of its random streams."""
    route: str
    splits: Mapping[str, tuple[Item, ...]]
    """Items by split (train, val, test, and all that is out of scope under `oos`)."""
    domains: tuple[str, ...]
    """All but out of scope, in the data set's order."""
    new: tuple[str, ...]
    """Domains that the base model never sees, sorted."""
    even: bool
    """Whether all known domains come equally often in the traffic, and all new ones; otherwise as often as the data set
    has queries left of them."""
    digest: str
    """Of the data set and of how it was split."""

    @property
    def known(self) -> tuple[str, ...]:
        """Domains that the base model learns."""
        return tuple(domain for domain in self.domains if domain not in self.new)


def choose_new(
    wanted: Sequence[str] | str | None, choices: Mapping[str, Sequence[str]], domains: Sequence[str], what: str
) -> tuple[str, ...]:
    """The new domains, sorted: those of a named choice (None for `default`) or those listed.

    `what` says in a message what is chosen from. Raises ConfigError for a name that is not there, and when nothing or
    everything would be new.
    """
    if isinstance(wanted, str) and wanted not in choices:
        names = " or ".join(choices)
        raise ConfigError(f"lab.new is {wanted!r}: give {names}, or a list of {what}")
    listed = choices[wanted or "default"] if wanted is None or isinstance(wanted, str) else wanted
    unknown = sorted(set(listed) - set(domains))
    if unknown:
        raise ConfigError(f"lab.new names {unknown[0]!r}, which is not among {what}: {', '.join(sorted(domains))}")
    if not 0 < len(set(listed)) < len(domains):
        raise ConfigError(f"lab.new names {len(set(listed))} of {len(domains)} {what}: some must be new and some known")
    return tuple(sorted(set(listed)))


def by_digest(names: Iterable[str]) -> list[str]:
    """Names in the order of their SHA-256: an order that nobody chose."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def prepare_world(data: IntentData, config: LabConfig, folder: Path, base: BaseModelConfig = BASE_MODEL) -> Prepared:
    """Make traffic and flagship answers in `folder` and the base model beside it, or find them there.

    Only the traffic depends on the world's seed, so that worlds of all seeds share one base model. Raises InputError
    when the data set is too small for the traffic.
    """
    traffic, answers = _prepare_traffic(config, data, folder)
    return Prepared(traffic, answers, prepare_base_model(data, folder.parent, base), EMBEDDER)


def base_model_folder(data: IntentData, parent: Path, config: BaseModelConfig = BASE_MODEL) -> Path:
    """Where `prepare_base_model` keeps the base model, named by a digest of all that it is made from."""
    return parent / f"{data.name}-base-{_digest(data.digest, data.new, config.model_dump())}"


def prepare_base_model(data: IntentData, parent: Path, config: BaseModelConfig = BASE_MODEL) -> Path:
    """Folder in `parent` of the base model that knows all but the new domains; trained if it is not there."""
    folder = base_model_folder(data, parent, config)
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        train_base_model(base_training_items(data), config, temporary, data.name)
        try:
            temporary.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(temporary)
    return folder


def base_training_items(data: IntentData) -> list[Item]:
    """What the base model learns from: the training split of the known domains."""
    return [item for item in data.splits["train"] if item.domain not in data.new]


def validation_items(data: IntentData) -> list[Item]:
    """On which the base model's accuracy is measured: the validation split of the known domains."""
    return [item for item in data.splits["val"] if item.domain not in data.new]


def traffic_rows(config: TrafficConfig, data: IntentData, seed: int) -> list[dict[str, Any]]:
    """Rows {id, time, route, user, messages, schema, reference, tags}, ordered by time; weeks count from 1.

    No query comes twice and none is among the base model's training queries (case and punctuation aside).
    The tags are for the lab's own scoring only. Raises InputError when a domain has too few queries.
    """
    rng = random.Random(f"{data.name}-traffic-{seed}")
    pools = _pools(data)
    for pool in pools.values():
        rng.shuffle(pool)
    sizes = {name: 1 if data.even else len(pool) for name, pool in pools.items()}
    early = _take(pools, _shares(config.early_queries, data.known, sizes), rng)
    drifted = _take(pools, _drifted_mix(config, data, sizes), rng)
    seconds, first, last = int(WEEK.total_seconds()), config.early_weeks, config.early_weeks + config.drifted_weeks
    # Times are drawn first and dealt out in order, so that the mix of domains is the same in every week.
    moments = sorted(rng.randrange(first * seconds) for _ in early)
    moments += sorted(rng.randrange(first * seconds, last * seconds) for _ in drifted)
    users = [f"user-{number:04d}" for number in range(config.users)]
    # A few users write much and most write little, as to any assistant.
    senders = rng.choices(users, [1 / (rank + 10) for rank in range(config.users)], k=len(moments))
    return [
        _row(number, config, data, second, item, user)
        for number, (second, item, user) in enumerate(zip(moments, early + drifted, senders, strict=True), 1)
    ]


def normalise(text: str) -> str:
    """Text with case, punctuation and white space levelled."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _drifted_mix(config: TrafficConfig, data: IntentData, sizes: Mapping[str, int]) -> dict[str, int]:
    """Queries of each domain in the drifted weeks; known domains share by their sizes, and so do new ones."""
    n_new = round(config.drifted_queries * config.new_share)
    n_outside = round(config.drifted_queries * config.out_of_scope_share)
    n_known = config.drifted_queries - n_new - n_outside
    return _shares(n_known, data.known, sizes) | _shares(n_new, data.new, sizes) | {OUT_OF_SCOPE: n_outside}


def _pools(data: IntentData) -> dict[str, list[Item]]:
    """Queries that traffic may draw from, by domain; known domains lend only what the base never saw."""
    seen = {normalise(item.text) for item in base_training_items(data)}
    pools: dict[str, list[Item]] = {domain: [] for domain in (*data.domains, OUT_OF_SCOPE)}
    for split in (*SPLITS, OUT_OF_SCOPE):
        for item in data.splits[split]:
            key = normalise(item.text)
            if key not in seen:
                seen.add(key)
                pools[item.domain].append(item)
    return pools


def _shares(total: int, names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, int]:
    """`total` in parts as the sizes of the names, rounded by largest remainders; the first names win ties."""
    whole = max(1, sum(sizes[name] for name in names))
    parts = {name: total * sizes[name] // whole for name in names}
    rest = sorted(names, key=lambda name: -(total * sizes[name] % whole))
    for name in rest[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def _take(pools: dict[str, list[Item]], wanted: dict[str, int], rng: random.Random) -> list[Item]:
    """Remove the wanted number of items from each pool; in random order."""
    taken: list[Item] = []
    for name, number in wanted.items():
        if number > len(pools[name]):
            raise InputError(
                f"the traffic needs {number} more queries of {name} and the data set has {len(pools[name])} left:"
                " lower early_queries, drifted_queries or a share in lab.traffic"
            )
        taken += [pools[name].pop() for _ in range(number)]
    rng.shuffle(taken)
    return taken


def _row(number: int, config: TrafficConfig, data: IntentData, second: int, item: Item, user: str) -> dict[str, Any]:
    return {
        "id": f"q{number:06d}",
        "time": (config.start + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "route": data.route,
        "user": user,
        "messages": [{"role": "user", "content": item.text}],
        "schema": None,
        "reference": item.intent,
        "tags": {
            "skill": item.intent,
            "week": second // int(WEEK.total_seconds()) + 1,
            "new": item.domain in (*data.new, OUT_OF_SCOPE),
            "domain": item.domain,
        },
    }


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _prepare_traffic(config: LabConfig, data: IntentData, folder: Path) -> tuple[Path, Path]:
    digest = _digest(data.digest, data.new, config.traffic.model_dump(mode="json"), config.seed)
    traffic, answers = folder / f"traffic-{digest}.jsonl", folder / f"answers-{digest}.jsonl"
    if not traffic.exists():
        rows = traffic_rows(config.traffic, data, config.seed)
        write_jsonl(answers, ({"content": row["messages"][0]["content"], "answer": row["reference"]} for row in rows))
        write_jsonl(traffic, rows)  # last: its presence says that both are there
    return traffic, answers
