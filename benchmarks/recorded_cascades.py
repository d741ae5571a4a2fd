"""Cascades over recorded answers of real models: what quality costs, and whether a signal beats a coin.

    python -m benchmarks.recorded_cascades --out recorded.md

No model runs. Per pair, every query is tested by policies that learnt and chose their thresholds without it (five
folds; several seeds are averaged per query, so that n stays the number of queries). Costs are sequential and shares of
what always asking the flagship costs. Token counts are estimated from characters (RouterArena: recorded).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.recorded_data import DATA, SETS

if TYPE_CHECKING:
    from evaluation.crossfit import FamilyResult
    from evaluation.frontier import PairOutcomes
    from evaluation.recorded import RecordedPair

TARGETS = (0.95, 0.97, 0.99)
LARGE = 5000
"""Sets with more queries are cut once: their intervals are narrow anyway."""
HEADS = {
    "rules": "rules",
    "single": "best single",
    "learned": "learned",
    "router": "router",
    "router per USD": "router per USD",
    "both": "both",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Which recorded models make a cascade, and which others may be asked as a committee."""

    label: str
    set: str
    cheap: str
    flagship: str
    peers: tuple[str, ...] = ()


LLAMA_3_8B, GPT_4O = "Meta-Llama-3-8B-Instruct", "gpt-4o-2024-08-06"
MIXTRAL, GPT_4 = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
PAIRS = (
    Pair("ZeroEval GSM8K: gemma-2-2b -> gpt-4o", "zeroeval-gsm8k", "gemma-2-2b-it", GPT_4O, (LLAMA_3_8B,)),
    Pair("ZeroEval GSM8K: Llama-3-8B -> gpt-4o", "zeroeval-gsm8k", LLAMA_3_8B, GPT_4O, ("gemma-2-2b-it",)),
    Pair("ZeroEval GSM8K: gpt-4o-mini -> Sonnet 3.5", "zeroeval-gsm8k", "gpt-4o-mini-2024-07-18",
         "claude-3-5-sonnet-20241022", ("gemini-1.5-flash",)),
    Pair("ZeroEval CRUX: gpt-4o-mini -> gpt-4o", "zeroeval-crux", "gpt-4o-mini-2024-07-18", GPT_4O,
         ("gemini-1.5-flash", LLAMA_3_8B)),
    Pair("ZeroEval CRUX: gemini-1.5-flash -> gpt-4o", "zeroeval-crux", "gemini-1.5-flash", GPT_4O,
         ("gpt-4o-mini-2024-07-18", LLAMA_3_8B)),
    Pair("RouteLLM GSM8K: Mixtral -> GPT-4", "routellm-gsm8k", MIXTRAL, GPT_4),
    Pair("RouteLLM MMLU: Mixtral -> GPT-4", "routellm-mmlu", MIXTRAL, GPT_4),
    Pair("MMLU-Pro: Llama-3.1-8B -> 70B", "mmlu-pro", "Meta-Llama-3_1-8B-Instruct", "Meta-Llama-3_1-70B-Instruct",
         ("Phi-3-mini-4k-instruct",)),
    Pair("MMLU-Pro: gemini-1.5-flash -> pro", "mmlu-pro", "gemini-1.5-flash-002", "gemini-1.5-pro-002",
         ("Meta-Llama-3_1-8B-Instruct", "Phi-3-mini-4k-instruct")),
    Pair("GSM8K 2021: 6B -> 175B, best of 100", "gsm8k-solutions", "6b_verification", "175b_verification",
         ("6b_finetuning",)),
    Pair("RouterArena: gemini-2.0-flash -> claude-3-haiku", "routerarena", "gemini-2.0-flash-001",
         "claude-3-haiku-20240307"),
)  # fmt: skip


def main() -> None:
    """Run the chosen pairs and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds the sets' folders")
    parser.add_argument("--embedder", type=Path, default=DATA.parent / "models" / "potion-base-4m")
    parser.add_argument("--sets", default=",".join(SETS), help="public sets to run, by comma")
    parser.add_argument("--only", default="", help="run only pairs whose label holds this text")
    parser.add_argument("--seeds", default="1,2,3", help="seeds of the folds (sets above 5,000 queries use the first)")
    parser.add_argument("--sample", type=int, help="use so many queries per pair (for a quick look)")
    parser.add_argument("--out", type=Path, help="also write the tables as Markdown")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    from flows.console import say, table

    chosen = [pair for pair in PAIRS if pair.set in given.sets.split(",") and given.only in pair.label]
    if not chosen:
        parser.error(f"no pair of these sets holds {given.only!r}; the pairs are: {'; '.join(p.label for p in PAIRS)}")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    cost_rows, gain_rows = run(given.data, given.embedder, chosen, seeds, given.sample)
    table("Cost at an exact share of flagship quality, in % of always-flagship (threshold read off the test curve)",
          cost_rows)  # fmt: skip
    table(
        "Thresholds chosen without the tested queries: cost at reached quality: saving over random mixing (90 %)",
        gain_rows,
    )
    command = f"python -m benchmarks.recorded_cascades --seeds {given.seeds}"
    command += f' --only "{given.only}"' if given.only else ""
    command += f" --sample {given.sample}" if given.sample else ""
    say(f"made by: {command}")
    if given.out:
        text = f"{markdown(cost_rows)}\n\n{markdown(gain_rows)}\n\nMade by `{command}`.\n"
        given.out.write_text(text, encoding="utf-8")


def run(
    data: Path, embedder: Path, pairs: Sequence[Pair], seeds: Sequence[int], sample: int | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the two tables; an absent set is skipped with a message."""
    from tqdm import tqdm

    from benchmarks.recorded_data import load_set
    from cascade.cost import PriceTable
    from cascade.errors import InputError
    from evaluation.crossfit import crossfit_families
    from evaluation.recorded import load_pair

    prices = PriceTable.from_yaml(Path(__file__).parents[1] / "configs" / "prices-recorded.yaml")
    embed = memoised(embedder)
    cost_rows: list[dict[str, Any]] = []
    gain_rows: list[dict[str, Any]] = []
    recordings: dict[str, Any] = {}
    for chosen in pairs:
        try:
            if chosen.set not in recordings:
                recordings = {chosen.set: load_set(chosen.set, data)}
        except InputError as error:
            print(f"skipped {chosen.label}: {error}")
            continue
        pair = load_pair(recordings[chosen.set], chosen.cheap, chosen.flagship, prices, chosen.peers)
        pair = pair if sample is None else sampled(pair, sample)
        used = seeds[:1] if len(pair.queries) > LARGE else seeds
        with tqdm(total=5 * len(used), desc=chosen.label, unit="fold") as bar:
            results = crossfit_families(pair, prices, TARGETS, embed=embed, seeds=used, on_fold=lambda: advance(bar))
        cost_rows += cost_table(chosen.label, pair, results)
        gain_rows += gain_table(chosen.label, pair, results)
    return cost_rows, gain_rows


def advance(bar: Any) -> None:
    """One fold is done."""
    bar.update()


def memoised(folder: Path) -> Any:
    """The embedder as a function of texts; each text is embedded once. None where its folder is absent."""
    if not folder.is_dir():
        print(f"no embedder at {folder}: routers see the query's form alone")
        return None
    import numpy as np
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    known: dict[str, Any] = {}

    def embed(texts: Sequence[str]) -> Any:
        new = list(dict.fromkeys(text for text in texts if text not in known))
        if new:
            known.update(zip(new, model.encode(new, normalize_embeddings=True), strict=True))
        return np.stack([known[text] for text in texts])

    return embed


def sampled(pair: RecordedPair, n: int) -> RecordedPair:
    """The first n queries of a pair, in an order that does not depend on the file's."""
    from dataclasses import replace
    from hashlib import sha256

    import numpy as np

    order = sorted(range(len(pair.queries)), key=lambda i: sha256(pair.queries[i].id.encode()).digest())[:n]
    return replace(
        pair,
        queries=tuple(pair.queries[i] for i in order),
        answers=tuple(pair.answers[i] for i in order),
        outcomes=pair.outcomes.part(np.array(order)),
    )


def cost_table(label: str, pair: RecordedPair, results: Sequence[FamilyResult]) -> list[dict[str, Any]]:
    """One row per target: the cost of each family at exactly that share of the flagship's quality."""
    from evaluation.frontier import oracle, random_mixing

    outcomes = pair.outcomes
    always = float(outcomes.flagship_usd.mean())
    rows = []
    for target in TARGETS:
        quality = target * outcomes.flagship_quality
        by_family = {r.family: r for r in results if r.target == target}
        costs = {
            head: by_family[family].usd_at(quality) if family in by_family else None for family, head in HEADS.items()
        }
        rows.append(
            {
                "pair": label,
                "n": f"{len(outcomes):,}",
                "cheap / flagship / oracle": f"{outcomes.cheap_quality:.1%} / {outcomes.flagship_quality:.1%} / "
                f"{outcomes.oracle_quality:.1%}",
                "at": f"{target:.0%}",
                "always flagship": "100",
                "random mixing": share(random_mixing(outcomes, quality), always),
                **{head: share(usd, always) for head, usd in costs.items()},
                "oracle cost": share(oracle(outcomes, quality), always),
            }
        )
    return rows


def gain_table(label: str, pair: RecordedPair, results: Sequence[FamilyResult]) -> list[dict[str, Any]]:
    """One row per target: of each family the cost, the reached quality, and the saving over random mixing.

    A quality is a share of the flagship's; a saving is in points of always-flagship's cost, at the quality reached.
    """
    from evaluation.frontier import saving_over_random

    outcomes = pair.outcomes
    always = float(outcomes.flagship_usd.mean())
    rows = []
    for target in TARGETS:
        row: dict[str, Any] = {"pair": label, "at": f"{target:.0%}"}
        better: list[str] = []
        for family, head in HEADS.items():
            result = next((r for r in results if (r.family, r.target) == (family, target)), None)
            if result is None:
                row[head] = "no text"
                continue
            reached = float(result.served.grade.mean()) / outcomes.flagship_quality
            row[head] = f"{share(float(result.served.usd.mean()), always)} at {100 * reached:.1f}"
            saving = saving_over_random(outcomes, result.served)
            if saving is not None:
                row[head] += f": {100 * saving.value:+.1f} [{100 * saving.low:+.1f}, {100 * saving.high:+.1f}]"
                better += [head] if saving.low > 0 else []
        row["beats random mixing"] = verdict(outcomes, target, better)
        rows.append(row)
    return rows


def verdict(outcomes: PairOutcomes, target: float, better: Sequence[str]) -> str:
    """Which families' signal is worth something: the saving's interval lies above zero."""
    if outcomes.flagship_quality <= outcomes.cheap_quality:
        return "never escalate: the flagship is not better"
    if outcomes.cheap_quality >= target * outcomes.flagship_quality:
        return "nothing to save: the cheap model alone reaches it"
    return ", ".join(better) if better else "none: no signal shown"


def share(usd: float | None, always: float) -> str:
    """A cost in % of always-flagship."""
    return "-" if usd is None else f"{100 * usd / always:.1f}"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(str(row[head]) for head in heads) + " |" for row in rows])


if __name__ == "__main__":
    main()
