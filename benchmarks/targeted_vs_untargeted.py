"""Targeted against untargeted distillation on real queries: `python -m benchmarks.targeted_vs_untargeted`.

Each seed is a world of its own: other queries in the traffic, another split into pool, calibration and held-out,
another selection, training and resampling. Every arm spends the same number of flagship answers (each one that an arm
uses, in training or in its verifier, counts), trains on the same number of tokens with the same settings, and gets a
verifier refitted at the same quality target. Intervals are at 90 %, over queries and seeds. What is
finished is kept under .lab/benchmarks/targeted and not made again; an arm with 1,000 answers takes minutes on a core.

What the tables need of each world is written to benchmarks/results/targeted; `--recorded` prints them from there, and
runs nothing. Another machine trains a little differently, so the arms of a world have to be of one: run anew, they are
better kept apart (`--records`).

`--part development` holds out other intents than the test does: everything that was chosen was chosen there.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.arms import MAIN
from flows.cli import ENVIRONMENT

if TYPE_CHECKING:
    from benchmarks.targeted_records import ArmRecord

FOLDER = Path(".lab/benchmarks/targeted")
RECORDS = Path("benchmarks/results/targeted")
CONFIGS = {"clinc150": Path("configs/clinc150.yaml"), "banking77": Path("configs/banking77.yaml"),
           "shop": Path("configs/demo.yaml")}  # fmt: skip


def main() -> None:
    """Run what is not there yet and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clinc150", help=f"some of {', '.join(CONFIGS)}, with commas")
    parser.add_argument("--seeds", default="16,17,18,19,20")
    parser.add_argument("--answers", default="1000", help="numbers of flagship answers, with commas")
    parser.add_argument("--arms", default=",".join(MAIN), help="arms of `cascade-distill compare`, with commas, or all")
    parser.add_argument("--part", choices=("development", "test"), default="test")
    parser.add_argument("--recorded", action="store_true", help="print what earlier runs recorded, and run nothing")
    parser.add_argument("--records", type=Path, default=RECORDS, help=f"folder of what is kept ({RECORDS})")
    parser.add_argument("--picture", type=Path, default=None, help="PNG file for the learning curve of the last set")
    given = parser.parse_args()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    from benchmarks.targeted_records import read_world, write_world
    from flows.arms import ARMS, choose_arms

    named = list(ARMS) if given.arms == "all" else given.arms.split(",")
    arms, answers = [arm.name for arm in choose_arms(named)], _numbers(given.answers)
    if given.recorded and len(_numbers(given.seeds)) < 2:
        parser.error(f"--seeds {given.seeds} is one world, of which means alone are recorded: give two, or run it anew")
    for name in given.sets.split(","):
        records = []
        for seed in _numbers(given.seeds):
            world = f"{name}-{given.part}-{seed}"
            if given.recorded:
                kept = [r for r in read_world(given.records, world) if r.taken.arm in arms and r.taken.level in answers]
                records += sorted(kept, key=lambda r: (r.taken.level, arms.index(r.taken.arm)))
            else:
                own = one_seed(name, seed, arms, answers, given.part)
                write_world(given.records, world, own)
                records += own
        _print(name, records, given)


def one_seed(name: str, seed: int, arms: list[str], answers: list[int], part: str) -> list[ArmRecord]:
    """These arms on one world."""
    from benchmarks.targeted_records import record_of
    from flows.compare import compare
    from flows.comparison import read_comparison
    from flows.serve import replay_traffic
    from flows.world import open_config

    run_id = f"{name}-{part}-{seed}"
    home = FOLDER / run_id
    lab: dict[str, Any] = {"seed": seed} | ({"new": "development"} if part == "development" else {})
    with open_config(CONFIGS[name], {"seed": seed, "state": str(home / "state"), "runs": str(home)}, lab) as opened:
        if opened.lab_traffic is not None:
            replay_traffic(opened.config, opened.lab_traffic)
        root = Path(compare(opened.config, "run", arms, [seed], answers))
    return [record_of(result) for result in read_comparison(root)]


def _print(name: str, records: list[ArmRecord], given: argparse.Namespace) -> None:
    from flows.charts import learning_curves_png
    from flows.comparison import figures_of
    from flows.comparison_page import curves_of
    from flows.comparison_tables import headline, held_rows, price_rows, rows_of
    from flows.console import say, table

    found = figures_of([r.outcomes for r in records], shared_queries=False)
    table(f"{name}, {given.part}: single results", [r.row for r in records])
    table(f"{name}, {given.part}: what each arm takes (means over seeds)", price_rows([r.taken for r in records]))
    table(f"{name}, {given.part}: savings at equal flagship answers and training tokens", rows_of(found))
    table(f"{name}, {given.part}: the same at one quality, which all serve", held_rows(found))
    say(headline(found))
    say(
        f"made by: python -m benchmarks.targeted_vs_untargeted --sets {name} --seeds {given.seeds}"
        f" --answers {given.answers} --arms {given.arms} --part {given.part} --records {given.records}"
    )
    if given.picture is not None:
        quality = list(found[0].held)[-1]
        learning_curves_png(given.picture, curves_of(found, quality), quality)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
