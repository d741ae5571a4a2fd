"""What forgetting prints."""

from __future__ import annotations

from typing import Any

from flows.console import say, table
from flows.forget import ForgetPlan


def print_forget(plan: ForgetPlan, *, done: bool, runs: bool) -> None:
    """What was (or would be) deleted, what stays, and which adapters were trained on it."""
    times = [query.time for query in plan.traces]
    span = f"{min(times):%Y-%m-%d} to {max(times):%Y-%m-%d}" if times else "-"
    gone = "deleted" if done else "would be deleted"
    stays = f"stays ({len(plan.runs)} folders): --runs deletes it" if plan.runs else "-"
    rows: list[dict[str, Any]] = [
        {"held": "traces", "n": len(plan.traces), "what": gone, "of": span},
        {"held": "bought answers", "n": len(plan.answers), "what": gone, "of": "-"},
        {"held": "judges' replies", "n": len(plan.replies), "what": gone, "of": "-"},
        {"held": "cached embeddings", "n": plan.n_vectors, "what": gone, "of": "-"},
        {
            "held": "copies in runs",
            "n": sum(run.n_traces for run in plan.runs),
            "what": gone if runs else stays,
            "of": ", ".join(run.run_id for run in plan.runs) or "-",
        },
        {"held": "answers in verifiers", "n": sum(len(v.bank.ids) for v in plan.verifiers), "what": gone, "of": "-"},
    ]
    table("Forgetting", rows)
    left_enough = "rebuilt without them: its threshold was tested with them, `run` fits another"
    too_few = "withdrawn, too few are left to compare with: it cannot serve until `run` fits another"
    verifiers = [
        {
            "verifier": verifier.bank.digest[:12],
            "serves": ", ".join(verifier.versions) or "-",
            "answers": f"{len(verifier.bank.ids)} of {verifier.bank.n_entries}",
            "what": ("" if done else "would be ") + (left_enough if verifier.bank.usable else too_few),
        }
        for verifier in plan.verifiers
    ]
    if verifiers:
        table("Learned verifiers that compare with those answers", verifiers)
    adapters = [{"version": a.version, "adapter": a.adapter_digest[:12], "why": a.why} for a in plan.adapters]
    table("Adapters trained on it (they stay: roll back, or train anew)", adapters)
    if not adapters:
        say("no adapter was trained on it")
    if done and plan.verifiers:
        say("a process that serves keeps the verifier that it has loaded: restart it")
    if not done:
        say("nothing was changed: --yes deletes")
