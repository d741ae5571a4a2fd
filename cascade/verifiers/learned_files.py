"""A learned verifier as one safetensors file, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cascade.errors import InputError
from cascade.verifiers.bank import AnswerBank, Embed, answer_fields
from cascade.verifiers.features import Features
from cascade.verifiers.models import model_from_arrays
from cascade.verifiers.parts import read_part

if TYPE_CHECKING:
    from cascade.verifiers.learned import LearnedScorer
    from cascade.verifiers.peers import PeerScorer

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
        "with_form": space.with_form,
        "with_text": space.with_text,
        "features": list(space.names),
        "peers": None if scorer.peers is None else list(scorer.peers.peers),
        "bank": None if bank is None else {"ids": bank.ids, "digests": bank.digests, "answers": bank.answers},
    }
    arrays = {"columns": scorer.columns, **scorer.model.arrays()}
    if space.axes is not None and space.centre is not None:
        arrays |= {"space.axes": space.axes, "space.centre": space.centre}
    if bank is not None:
        arrays["space.bank"] = bank.embeddings
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(contiguous, {"head": json.dumps(head, sort_keys=True)})


def read_learned(root: Path, digest: str, embed: Embed | None, peers: PeerScorer | None = None) -> LearnedScorer:
    """The scorer kept under root/<digest>; one with peers needs the same ones again.

    Raises InputError where it is missing or altered, or where its embedder or peers are not given.
    """
    from safetensors.numpy import load

    content = read_part(root, digest, FILE)
    length = int.from_bytes(content[:8], "little")
    head = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["head"])
    return _from_parts(head, load(content), embed, peers)


def _from_parts(
    head: dict[str, Any], arrays: dict[str, NDArray[Any]], embed: Embed | None, peers: PeerScorer | None
) -> LearnedScorer:
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
        with_form=head.get("with_form", False),
        with_text=head.get("with_text", False),
        with_peers=head.get("peers") is not None,
    )
    if list(space.names) != head.get("features", list(space.names)):
        raise InputError("this learned verifier looks at features that are no longer made: fit the verifier again")
    if embed is None and (space.axes is not None or bank is not None):
        raise InputError("this learned verifier looks at the query's embedding: give it the run's embedder")
    asked = head.get("peers")
    if asked is not None and (peers is None or list(peers.peers) != asked):
        raise InputError(f"this learned verifier asks {', '.join(asked)} for their answers: give it those very peers")
    model = model_from_arrays(arrays)
    return LearnedScorer(head["name"], space, arrays["columns"], model, head["why"], embed, peers if asked else None)
