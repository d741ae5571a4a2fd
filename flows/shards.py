"""Work in shards: a plain function of one picklable record, mapped in this process or over a Ray cluster.

    with open_runner(config.runner) as run:
        paths = list(run(embed_shard, tasks))

A shard's function writes one file, whole or not at all, and does nothing where it is there: a shard that is lost with
its machine is run again, and a killed run goes on with those that are missing. Shards come back in their order, so the
result does not depend on where they ran. Buying answers is not sharded: it waits for the network, not for a processor,
and one ledger on one machine is what makes the budget hard.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tqdm import tqdm

from cascade.errors import ConfigError
from cascade.local import LocalTier, LocalTierConfig
from cascade.trace import Answer, Query, answer_from_dict
from flows.rundir import read_jsonl, write_jsonl

if TYPE_CHECKING:
    from flows.config import RunnerConfig

Task = TypeVar("Task")


class Run(Protocol):
    """`map`, wherever it runs."""

    def __call__(self, function: Callable[[Task], Path], tasks: Iterable[Task], /) -> Iterable[Path]: ...


@contextmanager
def open_runner(config: RunnerConfig) -> Iterator[Run]:
    """The configured way to map a function over shards. Raises ConfigError where Ray is not installed."""
    if config.kind == "threads":
        yield map
    else:
        with _ray(config) as run:
            yield run


@contextmanager
def _ray(config: RunnerConfig) -> Iterator[Run]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own next default; else it warns
    try:
        import ray  # noqa: F401
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise ConfigError(
            f"runner.kind is ray, and Ray is not installed ({error}): pip install -c constraints.txt -e '.[ray]'"
        ) from None
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    local: dict[str, Any] = {"num_cpus": config.workers, "include_dashboard": False}
    made = RayTaskRunner(config.address, {} if config.address else local)
    # Workers report to the server of this process, also where that is a temporary one.
    with get_client(sync_client=True) as client:
        url = str(client.api_url).rstrip("/")
    with temporary_settings({PREFECT_API_URL: url}), made as runner:

        def run(function: Callable[[Any], Path], tasks: Iterable[Any]) -> Iterator[Path]:
            shard = task(name=function.__name__, cache_policy=NO_CACHE, retries=2)(_called)
            futures = [runner.submit(shard, {"function": function, "record": record}) for record in tasks]
            for future in futures:
                yield future.result()

        yield run


def _called(function: Callable[[Any], Path], record: Any) -> Path:
    return function(record)


@dataclass(frozen=True, slots=True)
class AnswerTask:
    """One shard's queries, who answers them, and where the answers go."""

    number: int
    queries: tuple[Query, ...]
    student: LocalTierConfig
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / f"answers-{self.number:05d}.jsonl"


@lru_cache(maxsize=1)
def _student(config: str) -> LocalTier:
    """A worker loads the model once, not once per shard."""
    return LocalTier(LocalTierConfig.model_validate_json(config))


def answer_shard(shard: AnswerTask) -> Path:
    """Answer one shard's queries to its file; the path. A finished file is left as it is."""
    if not shard.path.exists():
        answers = _student(shard.student.model_dump_json()).answer(shard.queries, progress=False)
        write_jsonl(shard.path, (asdict(answer) for answer in answers))
    return shard.path


def answer_in_shards(
    queries: Sequence[Query], student: LocalTierConfig, folder: Path, config: RunnerConfig
) -> list[Answer]:
    """The student's answers in the order of the queries, with a progress bar over the shards."""
    size = config.shard_queries
    tasks = [
        AnswerTask(number, tuple(queries[start : start + size]), student, folder)
        for number, start in enumerate(range(0, len(queries), size))
    ]
    with open_runner(config) as run:
        paths = list(tqdm(run(answer_shard, tasks), f"answer {student.name}", len(tasks), unit="shard"))
    return [answer_from_dict(row) for path in paths for row in read_jsonl(path)]
