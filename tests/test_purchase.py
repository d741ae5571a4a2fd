import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from loopback import PRICES, completion, make_query, serve

from cascade.client import OpenAITier
from cascade.errors import BudgetExceeded, ConfigError, TierError
from cascade.purchase import AnswerStore, Budget, Buyer, worst_case_tokens_in
from cascade.request import OpenAITierConfig
from cascade.trace import Answer

QUERIES = [make_query(n) for n in range(8)]
ONE_ANSWER_USD = PRICES.price("large").usd(10, 5)


@pytest.fixture
def store(tmp_path):
    opened = AnswerStore(tmp_path / "deep" / "answers.db")
    yield opened
    opened.close()


def buyer(url, store, limit=10.0, run_id="run", **fields):
    settings = {"model": "large", "base_url": url, "max_retries": 0, "max_tokens": 5, "concurrency": 4} | fields
    return Buyer(OpenAITier(OpenAITierConfig(**settings)), PRICES, store, Budget(limit), run_id)


def test_each_question_is_paid_once(store):
    same = make_query(99, "question 3")
    with serve() as server:
        first = buyer(server.url, store).buy([*QUERIES, same], "test", progress=False)
        again = buyer(server.url, store).buy([*QUERIES, same], "test", progress=False)
    assert sorted(server.questions) == [f"question {n}" for n in range(8)]
    assert first.answers["q0099"].text == "answer to question 3"
    assert (first.n_bought, first.n_reused) == (8, 1)
    assert first.cost_usd == pytest.approx(8 * ONE_ANSWER_USD)
    assert (again.n_bought, again.n_reused, again.cost_usd) == (0, 9, 0.0)
    assert again.answers == first.answers


def test_an_adopted_answer_is_not_bought(store):
    known = Answer("known", "large", 3, 2, None, "stop")
    with serve() as server:
        shop = buyer(server.url, store)
        shop.adopt(QUERIES[0], known)
        assert [query.id for query in shop.missing(QUERIES)] == [query.id for query in QUERIES[1:]]
        bought = shop.buy(QUERIES[:2], "test", progress=False)
    assert server.questions == ["question 1"]
    assert bought.answers["q0000"] == known
    assert bought.cost_usd == pytest.approx(ONE_ANSWER_USD)


def test_the_budget_holds_at_every_moment_and_what_was_paid_is_kept(store):
    with serve() as server:
        shop = buyer(server.url, store)
        worst = shop.worst_case_usd(QUERIES[0])
        assert worst > 2 * ONE_ANSWER_USD
        shop.budget = Budget(worst + 3 * ONE_ANSWER_USD)
        with pytest.raises(BudgetExceeded, match=r"the next request may cost .* raise the budget"):
            shop.buy(QUERIES, "test", progress=False)
    # Reservations shrink to true costs, so four fit although four worst cases would not.
    assert len(server.bodies) == 4
    assert store.count() == 4
    assert server.most_running == 1
    assert shop.budget.spent_usd == pytest.approx(4 * ONE_ANSWER_USD)
    assert shop.budget.reserved_usd == pytest.approx(0.0)
    assert shop.budget.spent_usd <= shop.budget.limit_usd


def test_no_money_means_no_request(store):
    with serve() as server:
        with pytest.raises(BudgetExceeded):
            buyer(server.url, store, limit=0.0).buy(QUERIES, "test", progress=False)
        assert server.bodies == []
    with pytest.raises(ConfigError, match="0 or more"):
        Budget(float("nan"))


def test_spending_counts_after_a_restart_for_the_same_run_only(store):
    with serve() as server:
        buyer(server.url, store).buy(QUERIES[:2], "test", progress=False)
        spent = 2 * ONE_ANSWER_USD
        assert buyer(server.url, store).budget.spent_usd == pytest.approx(spent)
        assert buyer(server.url, store, run_id="other").budget.spent_usd == 0.0
        shared = Budget(1.0)
        tier = OpenAITier(OpenAITierConfig(model="large", base_url=server.url))
        for _ in range(2):
            Buyer(tier, PRICES, store, shared, "run")
        assert shared.spent_usd == pytest.approx(spent)


def test_unknown_usage_makes_the_cost_unknown_and_charges_the_worst_case(store):
    with serve(lambda *_: (200, completion("x", usage=None))) as server:
        shop = buyer(server.url, store)
        bought = shop.buy(QUERIES[:1], "test", progress=False)
    assert bought.cost_usd is None
    assert bought.charged_usd == pytest.approx(shop.worst_case_usd(QUERIES[0]))
    assert store.spent_usd("run") == pytest.approx(bought.charged_usd)


def test_a_failed_request_is_reported_and_costs_nothing_and_can_be_bought_later(store):
    def picky(body, n):
        bad = body["messages"][0]["content"] == "question 2"
        return (400, {"error": {"message": "no"}}) if bad else (200, completion("x"))

    with serve(picky) as server:
        bought = buyer(server.url, store).buy(QUERIES, "test", progress=False)
    assert list(bought.failed) == ["q0002"]
    assert bought.failed["q0002"].startswith("status 400")
    assert (bought.n_bought, len(bought.answers)) == (7, 7)
    assert bought.cost_usd == pytest.approx(7 * ONE_ANSWER_USD)
    with serve() as server:
        assert buyer(server.url, store).buy(QUERIES, "test", progress=False).n_bought == 1
    assert server.questions == ["question 2"]


def test_a_dead_endpoint_is_an_error_and_costs_nothing(store):
    with serve() as server:
        pass
    shop = buyer(server.url, store, limit=0.02)
    with pytest.raises(TierError, match="all 8 requests to large failed: cannot reach"):
        shop.buy(QUERIES, "test", progress=False)
    assert shop.budget.spent_usd == 0.0


def test_a_model_without_price_is_refused_before_anything_is_sent(store):
    with pytest.raises(ConfigError, match="no price for model 'other'"):
        buyer("http://127.0.0.1:1/v1", store, model="other")


def test_the_worst_case_covers_any_byte_level_tokenizer():
    config = OpenAITierConfig(model="large", base_url="http://localhost/v1", send_schema=True)
    query = make_query(1, "Gr\u00fc\u00dfe \U0001f680", schema={"type": "object"})
    assert worst_case_tokens_in(query, config) >= len("Gr\u00fc\u00dfe \U0001f680".encode()) + len('{"type":"object"}')


CHILD = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from test_purchase import QUERIES_TO_KILL, buyer
from cascade.purchase import AnswerStore
from pathlib import Path
buyer({url!r}, AnswerStore(Path({store!r}))).buy(QUERIES_TO_KILL, "test", progress=False)
"""
QUERIES_TO_KILL = [make_query(n) for n in range(30)]


def test_a_killed_purchase_goes_on_where_it_stopped(tmp_path):
    """SIGKILL while four requests hang: what had arrived is never asked again, what hung is counted as spent."""
    answered, hanging, release = [], threading.Semaphore(0), threading.Event()

    def reply(body, n):
        if n > 12:
            hanging.release()
            release.wait(30)
        answered.append(body["messages"][0]["content"])
        return 200, completion("x")

    path = tmp_path / "answers.db"
    root = Path(__file__).parents[1]
    with serve(reply) as server:
        code = CHILD.format(root=str(root), tests=str(root / "tests"), url=server.url, store=str(path))
        child = subprocess.Popen([sys.executable, "-c", code])
        try:
            for _ in range(4):
                assert hanging.acquire(timeout=60)
            paid = list(answered)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        release.set()
        time.sleep(0.1)
        asked_before = len(server.bodies)
        store = AnswerStore(path)
        shop = buyer(server.url, store)
        lost = 4 * shop.worst_case_usd(QUERIES_TO_KILL[-1])
        assert store.count() == len(paid) == 12
        assert shop.budget.spent_usd == pytest.approx(12 * ONE_ANSWER_USD + lost, rel=0.02)
        bought = shop.buy(QUERIES_TO_KILL, "test", progress=False)
        asked_after = server.questions[asked_before:]
    store.close()
    assert (bought.n_bought, bought.n_reused) == (18, 12)
    assert not set(asked_after) & set(paid)
    assert len(asked_after) == len(set(asked_after)) == 18
