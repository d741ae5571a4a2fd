"""The committed models do what the lab promises: the base knows its skills and no others, the embedder separates."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.build import digests, measure_base
from lab.infer import answer_all
from lab.pretrain import PretrainConfig, encode_pairs, save_model, train_causal_lm, train_tokenizer
from lab.skills import NEW, draw_query
from lab.world import LabConfig

MODELS = LabConfig().models


def test_the_manifest_names_the_committed_weights() -> None:
    manifest = json.loads((MODELS / "manifest.json").read_text())
    assert manifest["sha256"] == digests(MODELS)


def test_the_base_model_answers_known_skills_and_fails_new_ones() -> None:
    scores = measure_base(MODELS / "base", seed=12345, per_skill=8)
    known = [score for score in scores if not score.new]
    fresh = [score for score in scores if score.new]
    assert sum(score.right for score in known) / sum(score.n for score in known) >= 0.9
    assert sum(score.right for score in fresh) / sum(score.n for score in fresh) <= 0.1


def test_the_embedder_puts_queries_of_one_skill_nearest_to_each_other() -> None:
    embedder = SentenceTransformer(str(MODELS / "embedder"), device="cpu")
    rng = random.Random(7)
    queries = [draw_query(skill, rng) for skill in NEW for _ in range(30)]
    vectors = embedder.encode([query.text for query in queries])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1)
    nearest = likeness.argmax(axis=1)
    same = [queries[at].skill == queries[other].skill for at, other in enumerate(nearest)]
    assert np.mean(same) >= 0.9


def test_training_is_reproducible_and_a_saved_model_reloads(tmp_path: Path) -> None:
    pairs = [([{"role": "user", "content": f"count {n}"}], f'{{"n":{n}}}') for n in range(40)]
    tokenizer = train_tokenizer([f"count {n} " + '{"n":}' for n in range(40)], 300)
    config = PretrainConfig(hidden_size=32, intermediate_size=64, layers=1, heads=2, epochs=2, batch_size=8)
    first, second = (train_causal_lm(pairs, tokenizer, config) for _ in range(2))
    assert first.losses == second.losses
    assert first.losses[-1] < first.losses[0]
    save_model(first.model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    answers = answer_all(loaded, AutoTokenizer.from_pretrained(tmp_path), ["count 3", "count 17"], max_new_tokens=8)
    assert len(answers) == 2
    assert all(answer.min_logprob <= answer.mean_logprob <= 0 for answer in answers)


def test_the_loss_covers_the_answer_and_its_end_token_only() -> None:
    tokenizer = train_tokenizer(["where is order 4821"] * 5, 300)
    [row] = encode_pairs([([{"role": "user", "content": "order 4821"}], '{"a":1}')], tokenizer, 64)
    assert tokenizer.decode(row.ids[row.prompt_length :]) == '{"a":1}<|end|>'
    assert tokenizer.decode(row.ids[: row.prompt_length]).endswith("<|assistant|>")
    with pytest.raises(ValueError, match="max_length 8"):
        encode_pairs([([{"role": "user", "content": "order 4821"}], '{"a":1}')], tokenizer, 8)
