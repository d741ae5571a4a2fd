"""The Prefect flow `improve`: the stages in order, with artifacts that show how the run went.

Prefect is a thin shell here: a task opens the run's folder, calls one plain stage, and returns the folder's path.
The stages' manifests are the one mechanism that skips finished work.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow, pause_flow_run, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL

from flows import assess, stages
from flows.approval import speak
from flows.config import RunConfig
from flows.context import open_run, start_run
from flows.records import EVALUATE, load_clusters, load_decision
from flows.report import write_report
from flows.summary import before_after_rows, cluster_rows
from promotion.approval import Word

WHO = "flow improve"


@task(cache_policy=NO_CACHE)
def collect_escalations(run_root: str) -> str:
    """Traces -> pool, calibration, held-out; escalations of the pool."""
    stages.collect(open_run(Path(run_root)))
    return run_root


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def measure_baseline(run_root: str) -> str:
    """Champion and flagship on calibration and held-out queries (buys answers: retried, bought ones are kept)."""
    stages.baseline(open_run(Path(run_root)))
    return run_root


@task(cache_policy=NO_CACHE)
def cluster_escalations(run_root: str) -> str:
    """Escalations -> clusters, shown as a table."""
    ctx = open_run(Path(run_root))
    stages.cluster(ctx)
    create_table_artifact(key="clusters", table=cluster_rows(load_clusters(ctx)), description="What escalates")
    return run_root


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5)
def build_training_set(run_root: str) -> str:
    """Clusters -> flagship answers and replay (buys answers: retried, bought ones are kept)."""
    stages.build(open_run(Path(run_root)))
    return run_root


@task(cache_policy=NO_CACHE)
def train_adapter(run_root: str) -> str:
    """Training set -> adapter, in a subprocess."""
    stages.train(open_run(Path(run_root)))
    return run_root


@task(cache_policy=NO_CACHE)
def evaluate_candidate(run_root: str) -> str:
    """Candidate against champion on held-out queries, shown as a table."""
    ctx = open_run(Path(run_root))
    assess.evaluate(ctx)
    create_table_artifact(key="before-after", table=before_after_rows(ctx), description="Before and after")
    markdown = (ctx.run.stage(EVALUATE) / "report.md").read_text(encoding="utf-8")
    create_markdown_artifact(key="evaluation", markdown=markdown, description="Evaluation report")
    return run_root


@task(cache_policy=NO_CACHE)
def decide_and_promote(run_root: str, dry_run: bool) -> str:
    """Gate -> decision -> registry; a dry run stops at the decision."""
    ctx = open_run(Path(run_root))
    assess.decision(ctx)
    if not dry_run:
        assess.promote(ctx, WHO)
    return run_root


class Say(RunInput):
    """What a person is asked for in Prefect's interface."""

    word: Word
    who: str
    why: str


def ask_a_person(root: str, timeout_s: float) -> None:
    """Pause the flow for a person's word, where a server is there to ask; without one `approve` and `reject` do it.

    No answer within `timeout_s` leaves the candidate waiting: the flow ends, and the commands still work.
    """
    ctx = open_run(Path(root))
    if PREFECT_API_URL.value() is None or not assess.awaits_word(ctx):
        return
    try:
        said = pause_flow_run(wait_for_input=Say, timeout=int(timeout_s))
    except FlowPauseTimeout:
        return
    speak(ctx, said.word, said.who, said.why)


@task(cache_policy=NO_CACHE)
def publish_report(run_root: str) -> str:
    """The HTML report and the decision with its reasons."""
    ctx = open_run(Path(run_root))
    path = write_report(ctx)
    found = load_decision(ctx)
    reasons = "\n".join(f"- **{c.status}** {c.name}: {c.sentence}" for c in found.checks)
    create_markdown_artifact(key="decision", markdown=f"# {found.outcome.upper()}\n\n{reasons}\n")
    create_link_artifact(key="report", link=path.resolve().as_uri(), link_text="HTML report")
    return str(path)


def improve_steps(config: RunConfig, run_id: str, dry_run: bool = False) -> str:
    """What the flow does, for any flow that has a configuration ready. Returns the path of the HTML report."""
    root = str(start_run(config, run_id).run.root)
    for step in (
        collect_escalations,
        measure_baseline,
        cluster_escalations,
        build_training_set,
        train_adapter,
        evaluate_candidate,
    ):
        step(root)
    decide_and_promote(root, dry_run)
    if not dry_run:
        ask_a_person(root, config.approval_timeout_s)
    return publish_report(root)


@flow(name="improve", flow_run_name="{run_id}", persist_result=False)
def improve(config: RunConfig, run_id: str, dry_run: bool = False) -> str:
    """One improvement run, or the rest of one that was interrupted. Returns the path of its HTML report."""
    return improve_steps(config, run_id, dry_run)
