"""The command line: `cascade-distill --help`.

Exit status: 0 done (and, of `run`, promoted), 2 a message for the user, 3 the gate (or a person) rejected, 4 the gate
could not tell, 5 the candidate waits for approval, 6 `verify` found a difference, 7 a check of `monitor
--fail-on-alarm` fired.
"""

from __future__ import annotations

import os
import sys
import warnings

import typer

from cascade.errors import CascadeDistillError
from flows.commands import checks, clusters, gate, loop, privacy, registry, schedule, traffic, train, watch

app = typer.Typer(
    help="Closes the loop on an LLM cascade: escalations, clusters, targeted answers, LoRA, gate, promotion.\n\n"
    "First time here? `cascade-distill demo` runs the whole loop on an embedded world, without a key or a GPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS = (
    loop.demo,
    traffic.replay,
    traffic.ingest,
    loop.run,
    loop.compare,
    loop.report,
    clusters.clusters,
    train.sweep,
    gate.verify,
    gate.simulate,
    gate.approve,
    gate.reject,
    registry.promote,
    registry.rollback,
    registry.status,
    schedule.serve_flows,
    watch.monitor,
    checks.doctor,
    checks.plan,
    privacy.forget,
)
for command in COMMANDS:
    app.command()(command)

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The stages' progress bars and tables are what the user reads.
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Torch's threads wait without spinning: on a busy machine spinning costs most of the speed.
    "OMP_WAIT_POLICY": "passive",
    # A temporary server on a busy machine needs longer than the default of 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # transformers warns itself of an attribute that it renamed; for the training process.
    "PYTHONWARNINGS": "ignore::FutureWarning:transformers.modeling_utils",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Defaults of the process; what the user has set stays."""


def main() -> None:
    """Entry point: a message for the user is one line and exit status 2."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app()
    except CascadeDistillError as error:
        print(f"cascade-distill: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
