"""BC5CDR and the small token tagger that is the cheap tier of `benchmarks.extraction`.

BC5CDR (Li et al. 2016, as split by Crichton et al. 2017: sentences of PubMed abstracts with chemicals and diseases)
is read from its three IOB files. The tagger is a multinomial logistic regression over hashed features of a token and
its neighbours, with the best IOB sequence taken by Viterbi; each token's label probabilities are its confidence.
"""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LABELS = ("O", "B-Chemical", "I-Chemical", "B-Disease", "I-Disease")
KINDS = ("Chemical", "Disease")
BUCKETS = 2**18
Entity = tuple[str, int, int]
"""(kind, first token, token after the last)."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """Tokens with their gold entities."""

    tokens: tuple[str, ...]
    entities: frozenset[Entity]


@dataclass(frozen=True, slots=True)
class Tagged:
    """The tagger's answer to one sentence."""

    entities: frozenset[Entity]
    logprobs: tuple[float, ...]
    """Of each token's label."""
    margins: tuple[float, ...]
    """Probability of the likeliest label minus that of the second, per token."""


def read_sentences(path: Path) -> list[Sentence]:
    """Sentences of an IOB file: token, tab, tag; a blank line ends a sentence."""
    found, tokens, tags = [], [], []
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        if line.strip():
            token, tag = line.split("\t")
            tokens.append(token)
            tags.append(tag)
        elif tokens:
            found.append(Sentence(tuple(tokens), spans(tags)))
            tokens, tags = [], []
    return found


def spans(tags: Sequence[str]) -> frozenset[Entity]:
    """Entities of an IOB sequence; an I without its B begins one."""
    found, start, kind = [], 0, ""
    for at, tag in enumerate([*tags, "O"]):
        inside = tag[2:]
        if kind and (tag[0] != "I" or inside != kind):
            found.append((kind, start, at))
            kind = ""
        if inside and not kind:
            start, kind = at, inside
    return frozenset(found)


def as_json(sentence: Sentence, entities: frozenset[Entity]) -> str:
    """An answer as a language model would give it: the texts of each kind, in order."""
    return json.dumps(
        {
            kind: [" ".join(sentence.tokens[start:end]) for k, start, end in sorted(entities, key=_place) if k == kind]
            for kind in KINDS
        }
    )


def _place(entity: Entity) -> tuple[int, int]:
    return entity[1], entity[2]


class Tagger:
    """A fitted tagger."""

    def __init__(self, model: Any, transitions: NDArray[np.float64]) -> None:
        self.model, self.transitions = model, transitions

    def tag(self, sentences: Sequence[Sentence]) -> list[Tagged]:
        """Label every sentence."""
        probabilities = self.model.predict_proba(_matrix(sentences))
        ends = np.cumsum([len(sentence.tokens) for sentence in sentences])
        return [self._decode(part) for part in np.split(probabilities, ends[:-1])]

    def _decode(self, p: NDArray[np.float64]) -> Tagged:
        path = _viterbi(np.log(np.maximum(p, 1e-12)), self.transitions)
        top = np.sort(p, axis=1)
        chosen = np.maximum(p[np.arange(len(p)), path], 1e-12)
        tags = [LABELS[label] for label in path]
        return Tagged(spans(tags), tuple(np.log(chosen).tolist()), tuple((top[:, -1] - top[:, -2]).tolist()))


def train_tagger(sentences: Sequence[Sentence], cache: Path) -> Tagger:
    """Fit, or read what was fitted before, from `cache`."""
    from sklearn.linear_model import LogisticRegression

    if cache.exists():
        return Tagger(*pickle.loads(cache.read_bytes()))
    labels = np.concatenate([_labels(sentence) for sentence in sentences])
    model = LogisticRegression(C=2.0, max_iter=60, tol=1e-3).fit(_matrix(sentences), labels)
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_bytes(pickle.dumps((model, _transitions())))
    return Tagger(model, _transitions())


def _labels(sentence: Sentence) -> NDArray[np.int64]:
    labels = np.zeros(len(sentence.tokens), dtype=np.int64)
    for kind, start, end in sentence.entities:
        labels[start] = LABELS.index(f"B-{kind}")
        labels[start + 1 : end] = LABELS.index(f"I-{kind}")
    return labels


def _transitions() -> NDArray[np.float64]:
    """0 where a label may follow another, a prohibitive cost where an I has no beginning of its kind."""
    cost = np.zeros((len(LABELS), len(LABELS)))
    for at, label in enumerate(LABELS):
        if label[0] == "I":
            cost[[i for i, before in enumerate(LABELS) if before[2:] != label[2:]], at] = -1e6
    return cost


def _viterbi(scores: NDArray[np.float64], transitions: NDArray[np.float64]) -> list[int]:
    best, back = scores[0] + transitions[0], []
    for row in scores[1:]:
        through = best[:, None] + transitions
        back.append(through.argmax(axis=0))
        best = through.max(axis=0) + row
    path = [int(best.argmax())]
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    return path[::-1]


def _matrix(sentences: Sequence[Sentence]) -> Any:
    from scipy.sparse import csr_matrix

    columns, rows = [], [0]
    for sentence in sentences:
        for features in _features(sentence.tokens):
            columns += [zlib.crc32(feature.encode()) % BUCKETS for feature in features]
            rows.append(len(columns))
    return csr_matrix((np.ones(len(columns)), columns, rows), shape=(len(rows) - 1, BUCKETS))


def _features(tokens: Sequence[str]) -> Iterator[list[str]]:
    padded = ["<s>", "<s>", *tokens, "</s>", "</s>"]
    lower = [token.lower() for token in padded]
    shape = [_shape(token) for token in padded]
    for at in range(2, len(padded) - 2):
        word = lower[at]
        found = ["bias", f"w={word}", f"s={shape[at]}", f"l={min(len(word), 12)}"]
        found += [f"p{n}={word[:n]}" for n in (2, 3, 4, 5)] + [f"e{n}={word[-n:]}" for n in (2, 3, 4, 5, 6)]
        found += [f"g={word[i : i + 3]}" for i in range(len(word) - 2)][:12]
        for step in (-2, -1, 1, 2):
            found += [f"w{step}={lower[at + step]}", f"e{step}={lower[at + step][-3:]}"]
        found += [f"b-={lower[at - 1]}_{word}", f"b+={word}_{lower[at + 1]}"]
        found += [f"t={lower[at - 1]}_{word}_{lower[at + 1]}"]
        found += [f"s-={shape[at - 1]}", f"s+={shape[at + 1]}"]
        yield found


def _shape(token: str) -> str:
    return "".join("X" if c.isupper() else "x" if c.islower() else "d" if c.isdigit() else c for c in token[:8])
