"""The stages of an improvement run, each a plain function: read records, call a package, write records.

    01-collect    traces of the window -> pool | calibration | held-out, and the pool's escalations
    02-baseline   the champion on calibration and held-out: answers, flagship answers, refitted verifier
    03-cluster    escalations -> embeddings -> clusters
    04-build      clusters -> selection -> bought answers + replay -> training set
    05-train      training set -> adapter
    06-evaluate   candidate on the same held-out queries, paired with the champion -> report
    07-decide     report + policy -> decision
    08-promote    decision -> registry

Stages 04 to 06 can be run for several arms of a comparison: they then live below arms/<arm>/.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cascade.calibration import Calibration
from cascade.errors import InputError
from cascade.trace import Answer, Query, Trace, answer_from_dict, trace_from_dict, trace_to_dict
from flows.context import RunContext
from flows.rundir import Manifest, RunDir, digest_json, read_json, read_jsonl, write_json, write_jsonl

COLLECT, BASELINE, CLUSTER, BUILD = "01-collect", "02-baseline", "03-cluster", "04-build"
TRAIN, EVALUATE, DECIDE, PROMOTE = "05-train", "06-evaluate", "07-decide", "08-promote"
