"""A sentence embedder fitted without labels or downloads: word vectors from positive PMI and SVD, mean-pooled.

It loads with ``SentenceTransformer(path)``: a static embedding table behind a word tokenizer. A word that goes with
everything (a weekday, a product) has a short vector, so that what a query asks outweighs what it asks about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import svds
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

UNKNOWN = "<unk>"


def fit_embedder(
    texts: Sequence[str], *, dimensions: int = 12, min_count: int = 5, seed: int = 0
) -> SentenceTransformer:
    """Fit on plain texts; words seen fewer than `min_count` times share a zero vector.

    Raises ValueError when too few words are left for `dimensions`.
    """
    splitter = _tokenizer({UNKNOWN: 0})
    documents = [_words(splitter, text) for text in texts]
    counts = Counter(word for words in documents for word in words)
    vocabulary = {UNKNOWN: 0}
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if count >= min_count:
            vocabulary[word] = len(vocabulary)
    if len(vocabulary) <= dimensions + 1:
        raise ValueError(f"{len(vocabulary)} words are too few for {dimensions} dimensions")
    ids = [[vocabulary.get(word, 0) for word in words] for words in documents]
    vectors = _word_vectors(ids, len(vocabulary), dimensions, seed)
    static = StaticEmbedding(_tokenizer(vocabulary), embedding_weights=vectors)
    return SentenceTransformer(modules=[static, Normalize()], device="cpu")


def save_embedder(model: SentenceTransformer, folder: Path) -> None:
    """Write the model so that ``SentenceTransformer(str(folder))`` loads it."""
    model.save(str(folder), create_model_card=False)


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    return tokenizer


def _words(splitter: Tokenizer, text: str) -> list[str]:
    """Normalised words; punctuation is left out, for it says nothing of the topic."""
    assert splitter.normalizer is not None and splitter.pre_tokenizer is not None
    pieces = splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(text))
    return [word for word, _ in pieces if word.isalnum()]


def _word_vectors(documents: list[list[int]], size: int, dimensions: int, seed: int) -> np.ndarray:
    """float32 [size, dimensions]: SVD of smoothed positive PMI of words that share a text."""
    known = [[word for word in words if word != 0] for words in documents]
    rows = [index for index, words in enumerate(known) for _ in words]
    columns = [word for words in known for word in words]
    presence = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(documents), size)).tocsr()
    presence.data[:] = 1.0
    together = (presence.T @ presence).tocoo()
    single = np.asarray(presence.sum(axis=0)).ravel()
    expected = single[together.row] * single[together.col] / len(documents)
    # The added counts keep chance meetings of rare words from looking meaningful.
    pmi = np.log((together.data + 1) / (expected + 1))
    kept = (together.row != together.col) & (pmi > 0)
    matrix = csr_array((pmi[kept], (together.row[kept], together.col[kept])), shape=(size, size))
    start = np.random.default_rng(seed).standard_normal(size)
    left, strength, _ = svds(matrix, k=dimensions, v0=start)
    # Weighting by the full strength and keeping few directions leaves topics and drops the wording of single
    # templates: with 64 directions clusters are templates, with 12 they are skills.
    vectors = left * strength
    vectors[0] = 0.0
    return np.ascontiguousarray(vectors, dtype=np.float32)
