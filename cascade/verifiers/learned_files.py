"""Learned verifiers on disk: one safetensors file each, in a folder named by its digest, never changed."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascade.errors import InputError
from cascade.verifiers.bank import AnswerBank, Embed, answer_fields
from cascade.verifiers.features import Features
from cascade.verifiers.models import model_from_arrays

if TYPE_CHECKING:
    from cascade.verifiers.learned import LearnedScorer

FILE = "learned.safetensors"


def scorer_content(scorer: LearnedScorer) -> bytes:
    """A scorer as one safetensors file: its arrays, and a JSON head in the metadata."""
    from safetensors.numpy import save

    space, bank = scorer.features, scorer.features.bank
    head = {
        "name": scorer.name,
        "why": scorer.why,
        "signals": list(space.signals),
        "with_answer": space.with_answer,
        "votes": space.votes,
        "neighbours": space.neighbours,
        "form": space.form,
        "left_out": space.left_out,
        "bank": None if bank is None else {"ids": bank.ids, "digests": bank.digests, "answers": bank.answers},
    }
    arrays = {"columns": scorer.columns, **scorer.model.arrays()}
    if space.axes is not None and space.centre is not None:
        arrays |= {"space.axes": space.axes, "space.centre": space.centre}
    if bank is not None:
        arrays["space.bank"] = bank.embeddings
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(contiguous, {"head": json.dumps(head, sort_keys=True)})


def store_learned(scorer: LearnedScorer, root: Path) -> Path:
    """Keep a scorer as root/<digest>/learned.safetensors and return that path; an undamaged copy is left alone."""
    path = root / scorer.digest / FILE
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == scorer.digest:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    incoming = path.with_name(f".incoming-{uuid.uuid4().hex}")
    with incoming.open("wb") as file:
        file.write(scorer.content)
        file.flush()
        os.fsync(file.fileno())
    incoming.replace(path)
    return path


def read_learned(root: Path, digest: str, embed: Embed | None) -> LearnedScorer:
    """The scorer kept under root/<digest>. Raises InputError where it is missing or altered."""
    from safetensors.numpy import load

    path = root / digest / FILE
    remedy = "restore the file, or fit the verifier again"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the learned verifier {path}: {error.strerror}; {remedy}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise InputError(f"the learned verifier {path} is not what was stored, its digest differs: {remedy}")
    length = int.from_bytes(content[:8], "little")
    head = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["head"])
    return _from_parts(head, load(content), embed)


def _from_parts(head: dict[str, Any], arrays: dict[str, NDArray[Any]], embed: Embed | None) -> LearnedScorer:
    from cascade.verifiers.learned import LearnedScorer

    bank = None
    if head["bank"] is not None:
        ids, digests, answers = (tuple(head["bank"][key]) for key in ("ids", "digests", "answers"))
        bank = AnswerBank(ids, digests, arrays["space.bank"], answers)
    space = Features(
        signals=tuple(head["signals"]),
        axes=arrays.get("space.axes"),
        centre=arrays.get("space.centre"),
        with_answer=head["with_answer"],
        bank=bank,
        bank_fields=() if bank is None else tuple(answer_fields(text, head["form"]) for text in bank.answers),
        votes=head["votes"],
        neighbours=head["neighbours"],
        form=head["form"],
        left_out=head["left_out"],
    )
    if embed is None and (space.axes is not None or bank is not None):
        raise InputError("this learned verifier looks at the query's embedding: give it the run's embedder")
    return LearnedScorer(head["name"], space, arrays["columns"], model_from_arrays(arrays), head["why"], embed)
