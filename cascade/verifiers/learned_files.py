"""A learned verifier as one safetensors file, and back; and what must be forgotten taken out of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cascade.errors import InputError
from cascade.verifiers.bank import AnswerBank, Embed, answer_fields
from cascade.verifiers.features import Features
from cascade.verifiers.models import models_from_arrays, models_to_arrays
from cascade.verifiers.parts import read_part, replace_part
from cascade.verifiers.traffic import TrafficAnswers

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
        "fold_seed": scorer.fold_seed,
        "peers": None if scorer.peers is None else list(scorer.peers.peers),
        "bank": None if bank is None else _texts(bank),
        "traffic": None if space.traffic is None else _texts(space.traffic.bank),
    }
    arrays = {"columns": scorer.columns, **models_to_arrays(scorer.models)}
    if space.axes is not None and space.centre is not None:
        arrays |= {"space.axes": space.axes, "space.centre": space.centre}
    if bank is not None:
        arrays["space.bank"] = bank.embeddings
    if space.traffic is not None:
        arrays |= {"space.traffic": space.traffic.bank.embeddings, "space.logprobs": space.traffic.logprobs}
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(contiguous, {"head": json.dumps(head, sort_keys=True)})


def read_learned(root: Path, digest: str, embed: Embed | None, peers: PeerScorer | None = None) -> LearnedScorer:
    """The scorer kept under root/<digest>; one with peers needs the same ones again.

    Raises InputError where it is missing or altered, or where its embedder or peers are not given.
    """
    from safetensors.numpy import load

    content = read_part(root, digest, FILE)
    return _from_parts(_head(content), load(content), embed, peers)


def _head(content: bytes) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    found: dict[str, Any] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["head"])
    return found


@dataclass(frozen=True, slots=True)
class HeldBank:
    """A stored learned verifier (or router) that compares with answers to certain queries."""

    digest: str
    ids: frozenset[str]
    """Those queries."""
    n_entries: int
    """Answers that it compares with, these among them."""
    n_left: int
    """Answers that would be left, of the flagship's or of the traffic's, whichever are fewer."""
    neighbours: int
    """How many entries the verifier compares with."""

    @property
    def usable(self) -> bool:
        """Whether enough would be left to compare with."""
        return self.n_left >= self.neighbours


def held_banks(root: Path, ids: Collection[str]) -> list[HeldBank]:
    """Every verifier below `root` that holds answers to any of these queries, in order of digest.

    Raises InputError for a damaged file.
    """
    wanted, found = frozenset(ids), []
    for path in sorted(root.glob(f"*/{FILE}")):
        head = _head(_content(path))
        parts = [set(head[part]["ids"]) for part in ("bank", "traffic") if head.get(part) is not None]
        held = wanted.intersection(set().union(*parts))
        if held:
            left = min(len(ids - wanted) for ids in parts)
            found.append(HeldBank(path.parent.name, held, len(set().union(*parts)), left, head["neighbours"]))
    return found


def forget_entries(root: Path, held: HeldBank) -> None:
    """Take the entries out of a stored verifier: its copy without them stands for it from now on.

    Answers, query ids, digests and embeddings go. What was fitted to many queries at once stays: the classifier's
    weights, the main axes of the embeddings. Where too little is left to compare with, the verifier is withdrawn.
    """
    from safetensors.numpy import load, save

    why = f"{len(held.ids)} of the {held.n_entries} answers that it compared with were forgotten"
    if not held.usable:
        replace_part(root, held.digest, FILE, None, why)
        return
    content = _content(root / held.digest / FILE)
    head, arrays = _head(content), load(content)
    bank, traffic = _bank(head, arrays), _traffic(head, arrays)
    if bank is not None:
        kept = bank.without(held.ids)
        arrays["space.bank"], head["bank"] = np.ascontiguousarray(kept.embeddings), _texts(kept)
    if traffic is not None:
        rest = traffic.without(held.ids)
        arrays |= {"space.traffic": np.ascontiguousarray(rest.bank.embeddings), "space.logprobs": rest.logprobs}
        head["traffic"] = _texts(rest.bank)
    replace_part(root, held.digest, FILE, _Bytes(save(arrays, {"head": json.dumps(head, sort_keys=True)})), why)


@dataclass(frozen=True)
class _Bytes:
    """A part as it is to be stored."""

    content: bytes
    file: ClassVar[str] = FILE

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def _content(path: Path) -> bytes:
    """A part's bytes, whatever stands for it: one that a killed process replaced and did not delete is there still."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.parent.name:
        raise InputError(f"the verifier's part {path} is damaged: delete its folder, and fit the verifier again")
    return content


def _texts(bank: AnswerBank) -> dict[str, Any]:
    return {"ids": bank.ids, "digests": bank.digests, "answers": bank.answers}


def _bank(head: dict[str, Any], arrays: dict[str, NDArray[Any]], part: str = "bank") -> AnswerBank | None:
    if head.get(part) is None:
        return None
    ids, digests, answers = (tuple(head[part][key]) for key in ("ids", "digests", "answers"))
    return AnswerBank(ids, digests, arrays[f"space.{part}"], answers)


def _traffic(head: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> TrafficAnswers | None:
    bank = _bank(head, arrays, "traffic")
    return None if bank is None else TrafficAnswers(bank, arrays["space.logprobs"], head["form"])


def _from_parts(
    head: dict[str, Any], arrays: dict[str, NDArray[Any]], embed: Embed | None, peers: PeerScorer | None
) -> LearnedScorer:
    from cascade.verifiers.learned import LearnedScorer

    bank, traffic = _bank(head, arrays), _traffic(head, arrays)
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
        traffic=traffic,
    )
    if list(space.names) != head.get("features", list(space.names)):
        raise InputError("this learned verifier looks at features that are no longer made: fit the verifier again")
    if embed is None and (space.axes is not None or bank is not None or traffic is not None):
        raise InputError("this learned verifier looks at the query's embedding: give it the run's embedder")
    asked = head.get("peers")
    if asked is not None and (peers is None or list(peers.peers) != asked):
        raise InputError(f"this learned verifier asks {', '.join(asked)} for their answers: give it those very peers")
    models, seed = models_from_arrays(arrays), head.get("fold_seed", 0)
    own_peers = peers if asked else None
    return LearnedScorer(head["name"], space, arrays["columns"], models, head["why"], embed, own_peers, seed)
