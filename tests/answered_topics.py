"""A world of known answers: what is right depends on a query's topic, and which topics the cheap model knows, too."""

import numpy as np
from loopback import make_query

from cascade.trace import Answer, TokenConfidence

TOPICS = 12
CENTRES = np.random.default_rng(5).normal(size=(TOPICS, 8))


def embed(texts):
    """Queries of one topic lie close together."""
    rows = []
    for text in texts:
        topic, number = (int(part) for part in text.split()[1::2])
        rows.append(CENTRES[topic] + 0.3 * np.random.default_rng(number).normal(size=8))
    matrix = np.array(rows, np.float32).reshape(-1, 8)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def world(n, seed, logprobs=True):
    """Topic decides the right answer; the cheap model knows two topics of three, and sounds sure of the others too."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(0, TOPICS, n)
    queries = [make_query(seed * 10_000 + i, f"topic {t} number {seed * 10_000 + i}") for i, t in enumerate(topics)]
    knows = np.where(topics % 3 < 2, rng.random(n) < 0.97, rng.random(n) < 0.1)
    sure = rng.normal(loc=np.where(knows, -0.5, -0.8), scale=0.3)
    answers = []
    for topic, right, mean in zip(topics.tolist(), knows.tolist(), sure.tolist(), strict=True):
        text = f"label {topic}" if right else f"label {(topic + 1) % TOPICS}"
        confidence = TokenConfidence(2, mean, 2 * mean, 1.5 * mean, None) if logprobs else None
        answers.append(Answer(text, "small", 10, 2, 0.0, "stop", confidence))
    return queries, answers, [f"label {topic}" for topic in topics.tolist()]


def auroc(values, right):
    return float((values[right][:, None] > values[~right][None, :]).mean())
