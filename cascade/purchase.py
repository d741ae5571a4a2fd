"""Buying flagship answers: each question is paid for once, and never past a hard budget.

Answers and what was spent live in one SQLite file. A killed process that starts again with the same file
asks only for what is missing, and what it had spent (or may have spent: requests in flight) still counts
against its budget.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from cascade.client import OpenAITier
from cascade.cost import PriceTable
from cascade.errors import BudgetExceeded, ConfigError, TierError
from cascade.request import OpenAITierConfig, request_digest, request_params
from cascade.tiers import Failure
from cascade.trace import Answer, Query, answer_from_dict

_TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA busy_timeout = 30000;
CREATE TABLE IF NOT EXISTS answers (digest TEXT PRIMARY KEY, answer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spending (
    id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, purpose TEXT NOT NULL, digest TEXT NOT NULL,
    usd REAL NOT NULL, settled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS spending_run ON spending (run_id);
CREATE TABLE IF NOT EXISTS replies_about (
    query_id TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (query_id, digest)
) WITHOUT ROWID;
"""


class AnswerStore:
    """Flagship answers by request digest, and a ledger of money spent, in an SQLite file.

    Usable from several threads; a commit survives a killed process. Raises ConfigError when the file cannot
    be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            self._db.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"cannot open the answer store {path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get(self, digest: str) -> Answer | None:
        """The stored answer to a request, or None."""
        with self._lock:
            row = self._db.execute("SELECT answer FROM answers WHERE digest = ?", (digest,)).fetchone()
        return answer_from_dict(json.loads(row[0])) if row else None

    def put(self, digest: str, answer: Answer) -> None:
        """Store an answer; one already there stays."""
        with self._lock:
            self._insert(digest, answer)

    def held(self, digests: Iterable[str]) -> set[str]:
        """Which of the requests have a stored answer."""
        return {digest for digest in set(digests) if self.get(digest) is not None}

    def note_about(self, query_id: str, digest: str) -> None:
        """Note that a stored reply is about a query: a judge's question holds it, so its digest does not tell."""
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO replies_about VALUES (?, ?)", (query_id, digest))

    def about(self, query_ids: Iterable[str]) -> set[str]:
        """Digests of the stored replies that were noted to be about these queries."""
        find = "SELECT digest FROM replies_about JOIN answers USING (digest) WHERE query_id = ?"
        with self._lock:
            return {row[0] for i in set(query_ids) for row in self._db.execute(find, (i,))}

    def remove(self, digests: Iterable[str]) -> None:
        """Delete answers for good, with what they were noted to be about; all or none. What they cost stays in the
        ledger."""
        with self._lock:
            self._db.execute("PRAGMA secure_delete = ON")  # else the text stays in free pages
            self._db.execute("BEGIN IMMEDIATE")
            try:
                gone = [(digest,) for digest in digests]
                self._db.executemany("DELETE FROM answers WHERE digest = ?", gone)
                self._db.executemany("DELETE FROM replies_about WHERE digest = ?", gone)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def count(self) -> int:
        """Number of stored answers."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM answers").fetchone()[0])

    def spent_usd(self, run_id: str) -> float:
        """Money spent by a run, with the worst case of each request that was sent and never came back."""
        with self._lock:
            query = "SELECT total(usd) FROM spending WHERE run_id = ?"
            return float(self._db.execute(query, (run_id,)).fetchone()[0])

    def reserve(self, run_id: str, purpose: str, digest: str, usd: float) -> int:
        """Note a request's worst-case cost before it is sent; returns the entry's number."""
        with self._lock:
            insert = "INSERT INTO spending (run_id, purpose, digest, usd) VALUES (?, ?, ?, ?)"
            return int(self._db.execute(insert, (run_id, purpose, digest, usd)).lastrowid or 0)

    def settle(self, entry: int, usd: float, digest: str, answer: Answer | None) -> None:
        """Replace a reservation by the true cost and store the answer, in one transaction."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.execute("UPDATE spending SET usd = ?, settled = 1 WHERE id = ?", (usd, entry))
                if answer is not None:
                    self._insert(digest, answer)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def _insert(self, digest: str, answer: Answer) -> None:
        row = (digest, json.dumps(asdict(answer), ensure_ascii=False))
        self._db.execute("INSERT OR IGNORE INTO answers (digest, answer) VALUES (?, ?)", row)


class Budget:
    """A hard limit in US dollars; `spent_usd` + `reserved_usd` never passes `limit_usd`."""

    def __init__(self, limit_usd: float) -> None:
        if not limit_usd >= 0:
            raise ConfigError(f"budget is {limit_usd} USD; use 0 or more")
        self.limit_usd = limit_usd
        self.spent_usd = 0.0
        self.reserved_usd = 0.0
        self._restored: set[tuple[str, str]] = set()

    @property
    def left_usd(self) -> float:
        """What may still be reserved."""
        return max(0.0, self.limit_usd - self.spent_usd - self.reserved_usd)

    def fits(self, usd: float) -> bool:
        """True when `usd` more can be reserved (to a ten-billionth of a dollar)."""
        return self.spent_usd + self.reserved_usd + usd <= self.limit_usd + 1e-10

    def reserve(self, usd: float) -> None:
        """Set `usd` aside. Raises BudgetExceeded when it does not fit."""
        if not self.fits(usd):
            raise BudgetExceeded(
                f"the next request may cost {usd:.6f} USD, but of the budget's {self.limit_usd:.6f} "
                f"USD {self.spent_usd:.6f} are spent and {self.reserved_usd:.6f} reserved; "
                "raise the budget or ask for less"
            )
        self.reserved_usd += usd

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """Turn a reservation into money spent."""
        self.reserved_usd = max(0.0, self.reserved_usd - reserved_usd)
        self.spent_usd += spent_usd

    def restore(self, store: AnswerStore, run_id: str) -> None:
        """Count what an earlier process of the run spent; a second call for the same run does nothing."""
        key = (str(store.path.resolve()), run_id)
        if key not in self._restored:
            self._restored.add(key)
            self.spent_usd += store.spent_usd(run_id)


@dataclass(frozen=True, slots=True)
class Purchase:
    """What one call of `Buyer.buy` brought."""

    answers: dict[str, Answer]
    """By query id; a query whose request failed is in `failed` instead."""
    n_bought: int
    """Requests answered (and paid) in this call."""
    n_reused: int
    """Queries answered without a request of their own: stored before, or equal to another of this call."""
    cost_usd: float | None
    """Money spent in this call; None when a usage is unknown."""
    charged_usd: float
    """What the budget was charged: `cost_usd`, with the worst case wherever that is unknown."""
    failed: dict[str, str]
    """Reason by query id."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    query: Query
    result: Answer | Failure
    charged_usd: float | None
    """None where no request was sent for this query."""
    cost_usd: float | None


@dataclass(frozen=True, slots=True)
class _Sent:
    entry: int
    reserved_usd: float
    digest: str


class Buyer:
    """Buys flagship answers through `tier`, once each, within `budget`.

    `run_id` names whose money it is: what the same run spent through the same store before a restart counts
    against the budget. Raises ConfigError when the tier's model has no price. Also a `Flagship`, so a
    cascade can escalate to it, or a judge be asked through it; `purpose` is what such requests are noted as. With
    `note_about` the store is told which query each stored reply is about (`AnswerStore.about`).
    """

    def __init__(
        self,
        tier: OpenAITier,
        prices: PriceTable,
        store: AnswerStore,
        budget: Budget,
        run_id: str = "default",
        purpose: str = "serving",
        *,
        note_about: bool = False,
    ) -> None:
        self.tier, self.prices, self.store, self.budget, self.run_id = tier, prices, store, budget, run_id
        self.purpose, self._note_about = purpose, note_about
        self._price = prices.price(tier.config.price_name)
        budget.restore(store, run_id)

    def adopt(self, query: Query, answer: Answer) -> None:
        """Put an answer that was already paid for (say, in a trace) into the store, at no cost."""
        self.store.put(request_digest(query, self.tier.config), answer)

    def missing(self, queries: Iterable[Query]) -> list[Query]:
        """One query for each request that `buy` would send: what the store has is left out."""
        groups = self._by_digest(queries)
        return [group[0] for digest, group in groups.items() if self.store.get(digest) is None]

    def worst_case_usd(self, query: Query) -> float:
        """Upper bound of a request's cost: `worst_case_tokens_in` of prompt and `max_tokens` of answer."""
        return self._price.usd(worst_case_tokens_in(query, self.tier.config), self.tier.config.max_tokens)

    def buy(self, queries: Sequence[Query], purpose: str, *, progress: bool = True) -> Purchase:
        """Answers to `queries`: from the store, else from the flagship and then stored, each as it arrives.

        `purpose` is written to the ledger. A failed request stops no other. Raises BudgetExceeded when the
        next request does not fit (all that were sent before are in the store), and TierError when every
        request failed.
        """
        outcomes: list[_Outcome] = []
        with tqdm(total=len(queries), desc=f"flagship: {purpose}", unit="answer", disable=not progress) as bar:
            for outcome in self._outcomes(queries, purpose):
                outcomes.append(outcome)
                bar.set_postfix_str(f"{self.budget.spent_usd:.4f} USD", refresh=False)
                bar.update()
        purchase = _summarise(outcomes)
        if purchase.failed and not purchase.answers:
            reason = next(iter(purchase.failed.values()))
            raise TierError(f"all {len(purchase.failed)} requests to {self.tier.config.model} failed: {reason}")
        return purchase

    def iter_outcomes(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Answer | Failure]]:
        """As `OpenAITier.iter_outcomes`, but bought; raises BudgetExceeded after the last that fitted."""
        for outcome in self._outcomes(queries, self.purpose):
            yield outcome.query, outcome.result

    def _outcomes(self, queries: Iterable[Query], purpose: str) -> Iterator[_Outcome]:
        waiting: dict[str, list[Query]] = {}
        for digest, group in self._by_digest(queries).items():
            stored = self.store.get(digest)
            for query in group if self._note_about else ():
                self.store.note_about(query.id, digest)  # before the reply: a kill must not leave it unnoted
            if stored is None:
                waiting[digest] = group
            else:
                yield from (_Outcome(query, stored, None, None) for query in group)
        # Worst cases are far above true costs, so a wave may end with money left: what it gave back pays for
        # the next.
        while waiting:
            sent: dict[str, _Sent] = {}
            yield from self._wave(waiting, sent, purpose)
            if waiting and not sent:
                self.budget.reserve(self.worst_case_usd(next(iter(waiting.values()))[0]))

    def _wave(self, waiting: dict[str, list[Query]], sent: dict[str, _Sent], purpose: str) -> Iterator[_Outcome]:
        """Send what the budget can carry at its worst; digests leave `waiting` for `sent` as they go."""
        groups: dict[str, list[Query]] = {}

        def affordable() -> Iterator[Query]:
            for digest in list(waiting):
                usd = self.worst_case_usd(waiting[digest][0])
                if not self.budget.fits(usd):
                    return
                self.budget.reserve(usd)
                sent[digest] = _Sent(self.store.reserve(self.run_id, purpose, digest, usd), usd, digest)
                groups[digest] = waiting.pop(digest)
                yield groups[digest][0]

        for query, result in self.tier.iter_outcomes(affordable()):
            digest = request_digest(query, self.tier.config)
            first, *others = groups.pop(digest)
            yield self._settle(first, result, sent[digest])
            yield from (_Outcome(other, result, None, None) for other in others)

    def _settle(self, query: Query, result: Answer | Failure, sent: _Sent) -> _Outcome:
        if isinstance(result, Failure):
            cost = None if result.maybe_billed else 0.0
            answer = None
        else:
            cost, answer = self.prices.cost_usd(result), result
        charged = sent.reserved_usd if cost is None else cost
        self.store.settle(sent.entry, charged, sent.digest, answer)
        self.budget.settle(sent.reserved_usd, charged)
        return _Outcome(query, result, charged, cost)

    def _by_digest(self, queries: Iterable[Query]) -> dict[str, list[Query]]:
        groups: dict[str, list[Query]] = {}
        for query in queries:
            groups.setdefault(request_digest(query, self.tier.config), []).append(query)
        return groups


def worst_case_tokens_in(query: Query, config: OpenAITierConfig) -> int:
    """Upper bound of a request's prompt tokens: byte-level tokenizers make no more tokens than UTF-8 bytes.

    16 tokens per message and 32 per request are added for the chat template.
    """
    params = request_params(query, config)
    text = sum(len(message["content"].encode()) + 16 for message in params["messages"])
    schema = params.get("response_format")
    return text + 32 + (len(json.dumps(schema).encode()) if schema else 0)


def _summarise(outcomes: list[_Outcome]) -> Purchase:
    sent = [outcome for outcome in outcomes if outcome.charged_usd is not None]
    costs = [outcome.cost_usd for outcome in sent]
    answers = {o.query.id: o.result for o in outcomes if not isinstance(o.result, Failure)}
    n_bought = sum(not isinstance(outcome.result, Failure) for outcome in sent)
    n_answered = sum(not isinstance(outcome.result, Failure) for outcome in outcomes)
    return Purchase(
        answers=answers,
        n_bought=n_bought,
        n_reused=n_answered - n_bought,
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
        charged_usd=sum(outcome.charged_usd or 0.0 for outcome in sent),
        failed={o.query.id: o.result.reason for o in outcomes if isinstance(o.result, Failure)},
    )
