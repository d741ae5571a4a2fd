"""Public sets of recorded model answers in the product's own format (docs/data.md, "Recorded answers").

    python -m benchmarks.recorded_data zeroeval-gsm8k gsm8k.jsonl

writes a file for `cascade-distill replay --recorded`. Correctness is each set's own label.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cascade.errors import InputError
from cascade.recorded import Recording, Usage, estimate_tokens, recording_from_rows

Row = dict[str, Any]
DATA = Path(__file__).parents[2] / "shared" / "datasets"


def zeroeval(folder: Path, name: str) -> Iterator[Row]:
    """ZeroEval (WildEval, Apache-2.0): full texts; `correct` recomputed from the final answer. No token counts."""
    for item in _lines(folder / f"{name}_replay.jsonl"):
        question = item["question"]
        if "[PYTHON]" in question:  # CRUXEval-O: the prompt around the code is the same for all
            question = question.split("[PYTHON]")[1].split("[/PYTHON]")[0].strip()
        for model, given in item["models"].items():
            yield {
                "id": item["id"],
                "query": question,
                "reference": str(item["gold"]),
                "model": model,
                "text": given["output"],
                "correct": given["correct"],
                "tokens_in": estimate_tokens(given["prompt_chars"]),
                "tokens_out": estimate_tokens(given["out_chars"]),
                "usage": Usage.CHARACTERS,
            }


ROUTELLM = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")


def routellm_gsm8k(folder: Path) -> Iterator[Row]:
    """RouteLLM (lm-sys, Apache-2.0), GSM8K without the prompts that upstream holds contaminated."""
    left_out = {item["eval_prompt"] for item in _lines(folder / "contaminated_gsm8k.jsonl")}
    for number, item in enumerate(_table(folder / "gsm8k_responses.csv")):
        if item["prompt"] not in left_out:
            for model in ROUTELLM:
                text, right = item[f"{model}_response"], item[model] == "True"
                yield {"id": f"g{number}", "query": item["prompt"], "model": model, "text": text, "correct": right}


def routellm_mmlu(folder: Path) -> Iterator[Row]:
    """RouteLLM, MMLU: labels only, no texts. An answer is taken to be one token (the letter) on both sides."""
    left_out = {item["eval_prompt"] for item in _lines(folder / "contaminated_mmlu.jsonl")}
    for file in sorted((folder / "mmlu").glob("mmlu_*.csv")):
        for number, item in enumerate(_table(file)):
            if item["prompt"] in left_out:
                continue
            for model in ROUTELLM:
                yield {
                    "id": f"{file.stem}-{number}",
                    "query": item["prompt"],
                    "model": model,
                    "text": None,
                    "correct": item[model] == "True",
                    "tokens_in": estimate_tokens(len(item["prompt"])),
                    "tokens_out": 1,
                    "usage": Usage.ASSUMED,
                }


MMLU_PRO_TOKENS_OUT = 200
"""Assumed length of a chain-of-thought answer where its length was not kept (all but the Gemini models)."""


def mmlu_pro(folder: Path) -> Iterator[Row]:
    """MMLU-Pro (TIGER-Lab, Apache-2.0): the parsed letter of each model; of the reasoning at most its length.

    The prompts (five worked examples before each question) were not kept: their length is left out on all sides.
    """
    for item in _lines(folder / "mmlu_pro_replay.jsonl"):
        options = "\n".join(f"{chr(65 + i)}. {option}" for i, option in enumerate(item["options"]))
        question = f"{item['question']}\n{options}"
        for model, given in item["models"].items():
            known = given["output_chars"] > 0
            yield {
                "id": str(item["question_id"]),
                "query": question,
                "route": item["category"],
                "reference": item["answer"],
                "model": model,
                "text": f"The answer is ({given['pred']})." if given["pred"] else "no answer",
                "correct": given["correct"],
                "tokens_in": estimate_tokens(len(question)),
                "tokens_out": estimate_tokens(given["output_chars"]) if known else MMLU_PRO_TOKENS_OUT,
                "usage": Usage.CHARACTERS if known else Usage.ASSUMED,
            }


GSM8K_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def gsm8k_solutions(folder: Path) -> Iterator[Row]:
    """Cobbe et al. 2021 (MIT): fine-tuned GPT-3 of 6 B and 175 B; "verification" is the best of 100 samples."""
    for number, item in enumerate(_lines(folder / "example_model_solutions.jsonl")):
        for model in GSM8K_MODELS:
            text, right = item[model]["solution"], item[model]["is_correct"]
            yield {"id": f"s{number}", "query": item["question"], "model": model, "text": text, "correct": right}


ROUTERARENA_MODELS = ("claude-3-haiku-20240307", "gemini-2.0-flash-001")


def routerarena(folder: Path) -> Iterator[Row]:
    """RouterArena (RouteWorks, Apache-2.0): true token counts and USD; each metric's score, cut to 0..1, as grade."""
    for model in ROUTERARENA_MODELS:
        for item in _lines(folder / f"{model}.jsonl"):
            result, usage = item["evaluation_result"], item["token_usage"]
            yield {
                "id": item["global_index"],
                "query": item["question"],
                "route": item["global_index"].rsplit("_", 1)[0],
                "model": model,
                "text": item["generated_answer"],
                # A chance-corrected score falls below 0 where an answer is worse than a guess.
                "grade": min(1.0, max(0.0, result["score"])),
                "tokens_in": usage["input_tokens"],
                "tokens_out": usage["output_tokens"],
                "usd": result["inference_cost"],
            }


SETS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "zeroeval-gsm8k": lambda data: zeroeval(data / "zeroeval", "gsm"),
    "zeroeval-crux": lambda data: zeroeval(data / "zeroeval", "crux"),
    "routellm-gsm8k": lambda data: routellm_gsm8k(data / "routellm"),
    "routellm-mmlu": lambda data: routellm_mmlu(data / "routellm"),
    "mmlu-pro": lambda data: mmlu_pro(data / "mmlu_pro_replay"),
    "gsm8k-solutions": lambda data: gsm8k_solutions(data / "gsm8k"),
    "routerarena": lambda data: routerarena(data / "routerarena"),
}


def load_set(name: str, data: Path = DATA) -> Recording:
    """A public set as a record. Raises InputError for an unknown name or an absent file."""
    if name not in SETS:
        raise InputError(f"no public set {name!r}; use one of {', '.join(SETS)}")
    return recording_from_rows(name, SETS[name](data))


def _lines(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; fetch the set first, its README says where") from error


def _table(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; fetch the set first, its README says where") from error


def main() -> None:
    """Write one set to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("out", type=Path, help="JSONL file to write")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds the sets' folders")
    given = parser.parse_args()
    temporary = given.out.with_name(given.out.name + ".tmp")
    n = 0
    with temporary.open("w", encoding="utf-8") as file:
        for row in SETS[given.set](given.data):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            n += 1
    temporary.replace(given.out)
    print(f"{n} recorded answers in {given.out}")


if __name__ == "__main__":
    main()
