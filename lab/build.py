"""Build the lab's models: ``python -m lab.build`` writes base/, embedder/ and manifest.json to lab/models.

Takes some minutes on two cores. Prints exact match per skill on fresh queries, new skills included, which the base
model has never seen and should fail.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.corpus import CorpusSize, base_training_queries, embedder_texts
from lab.embedder import fit_embedder, save_embedder
from lab.files import write_atomically
from lab.infer import answer_all
from lab.pretrain import PretrainConfig, PretrainResult, save_model, train_causal_lm, train_tokenizer
from lab.score import SkillScore, score_skills
from lab.skills import KNOWN, NEW, draw_query
from lab.words import WORDS

BASE_CONFIG = PretrainConfig(
    hidden_size=128, intermediate_size=336, heads=4, epochs=1, batch_size=32, learning_rate=3e-3, max_length=128
)
PACKAGES = ("torch", "transformers", "tokenizers", "sentence-transformers")


def build_base(seed: int, size: CorpusSize, folder: Path) -> PretrainResult:
    """Train the base model on the seed's corpus and save it."""
    queries = base_training_queries(seed, size)
    # The whole vocabulary is in the tokenizer's text, so that no word of it falls apart into letters.
    words = [" ".join(WORDS), "_".join(WORDS)] * 20
    tokenizer = train_tokenizer([f"{query.text} {query.gold}" for query in queries] + words, 2048, digit_group=2)
    pairs = [([{"role": "user", "content": query.text}], query.gold) for query in queries]
    result = train_causal_lm(pairs, tokenizer, replace(BASE_CONFIG, seed=seed), description="base model")
    save_model(result.model, tokenizer, folder)
    return result


def measure_base(folder: Path, *, seed: int, per_skill: int) -> list[SkillScore]:
    """Exact match per skill of a saved model, on `per_skill` queries that no training used."""
    rng = random.Random(f"measure-{seed}")
    queries = [draw_query(skill, rng) for skill in KNOWN + NEW for _ in range(per_skill)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = answer_all(model, tokenizer, [query.text for query in queries])
    rows = [
        {"id": str(at), "reference": query.gold, "tags": {"skill": query.skill, "new": query.new}}
        for at, query in enumerate(queries)
    ]
    return score_skills({str(at): answer.text for at, answer in enumerate(answers)}, rows)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each weights file, by path inside `folder`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }


def _summary(result: PretrainResult, scores: list[SkillScore]) -> dict[str, Any]:
    known = [score for score in scores if not score.new]
    fresh = [score for score in scores if score.new]
    return {
        "parameters": result.parameters,
        "training_seconds": round(result.seconds, 1),
        "training_tokens": result.tokens,
        "known_exact_match": round(sum(s.right for s in known) / sum(s.n for s in known), 4),
        "new_exact_match": round(sum(s.right for s in fresh) / sum(s.n for s in fresh), 4),
    }


def main(arguments: list[str] | None = None) -> None:
    """Build, measure, print, and write the manifest last."""
    parser = argparse.ArgumentParser(prog="python -m lab.build", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models")
    parser.add_argument("--threads", type=int, help="CPU threads; one is fastest when other work shares the cores")
    parser.add_argument("--per-skill", type=int, default=40, help="fresh queries per skill in the closing table")
    given = parser.parse_args(arguments)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    size = CorpusSize()
    save_embedder(fit_embedder(embedder_texts(given.seed, size), seed=given.seed), given.out / "embedder")
    result = build_base(given.seed, size, given.out / "base")
    scores = measure_base(given.out / "base", seed=given.seed, per_skill=given.per_skill)
    for score in scores:
        print(f"{'new' if score.new else 'known':6} {score.skill:16} {score.exact_match:6.1%} of {score.n}")
    manifest = {
        "seed": given.seed,
        "corpus": asdict(size),
        "versions": {name: version(name) for name in PACKAGES},
        "sha256": digests(given.out),
        "figures": _summary(result, scores),
    }
    write_atomically(given.out / "manifest.json", json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
