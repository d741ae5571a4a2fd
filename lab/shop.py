"""The shop world: generated traffic over the committed base model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.corpus import CorpusSize, base_training_queries
from lab.files import write_jsonl
from lab.traffic import generate_traffic
from lab.world import LabConfig, Prepared


def prepare(config: LabConfig, folder: Path) -> Prepared:
    """Write traffic and the flagship's answers for `config`; the same config writes the same bytes.

    Raises FileNotFoundError when the models have not been built.
    """
    base, embedder = config.models / "base", config.models / "embedder"
    manifest = config.models / "manifest.json"
    for path in (base, embedder, manifest):
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: build the lab's models with `python -m lab.build`")
    rows = generate_traffic(config.traffic, config.seed, avoid=base_training_texts(manifest))
    traffic, answers = folder / "traffic.jsonl", folder / "flagship-answers.jsonl"
    write_jsonl(traffic, rows)
    write_jsonl(answers, answer_rows(rows))
    return Prepared(traffic, answers, base, embedder)


def base_training_texts(manifest: Path) -> set[str]:
    """Every query text that the base model of a manifest was trained on, drawn again from its seed."""
    built = json.loads(manifest.read_text(encoding="utf-8"))
    return {query.text for query in base_training_queries(built["seed"], CorpusSize(**built["corpus"]))}


def answer_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Flagship rows {"content", "answer"} of traffic rows, each question once."""
    book = {row["messages"][-1]["content"]: row["reference"] for row in rows}
    return [{"content": content, "answer": answer} for content, answer in book.items()]
