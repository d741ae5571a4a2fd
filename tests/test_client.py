import math
import threading
import time

import pytest
from loopback import completion, make_query, serve

from cascade.client import OpenAITier, answer_from_completion, list_models, probe_logprobs
from cascade.errors import ConfigError, TierError
from cascade.request import OpenAITierConfig, request_digest, request_params
from cascade.tiers import Failure, SamplingConfig, sample_seed
from cascade.trace import Answer

QUERIES = [make_query(n) for n in range(6)]


def tier(url, **fields):
    return OpenAITier(OpenAITierConfig(**({"model": "large", "base_url": url, "max_retries": 0} | fields)))


def outcome_of(reply, **fields):
    with serve(reply) as server, tier(server.url, **fields) as flagship:
        return next(outcome for _, outcome in flagship.iter_outcomes(QUERIES[:1]))


def test_answers_come_in_order_with_usage_and_the_digest_as_idempotency_key():
    with serve() as server, tier(server.url, concurrency=3) as flagship:
        answers = flagship.answer([*QUERIES, QUERIES[0]])
    assert [answer.text for answer in answers] == [f"answer to question {n}" for n in (0, 1, 2, 3, 4, 5, 0)]
    first = answers[0]
    assert (first.model, first.tokens_in, first.tokens_out, first.finish_reason) == ("large", 10, 5, "stop")
    assert first.latency_s > 0
    assert first.confidence is None
    keys = [headers["idempotency-key"] for headers in server.headers]
    assert keys[server.questions.index("question 1")] == request_digest(QUERIES[1], flagship.config)


def test_requests_run_at_once_but_never_more_than_asked():
    gate = threading.Barrier(3, timeout=20)

    def reply(body, n):
        gate.wait()  # passes only when three requests are inside together
        return 200, completion("x")

    with serve(reply) as server, tier(server.url, concurrency=3) as flagship:
        flagship.answer(QUERIES)
    assert server.most_running == 3


def test_only_as_many_queries_are_read_as_can_be_sent():
    read = []

    def source():
        for query in QUERIES:
            read.append(query.id)
            yield query

    with serve() as server, tier(server.url, concurrency=2) as flagship:
        stream = flagship.iter_outcomes(source())
        next(stream)
        assert len(read) == 2
        stream.close()
    assert len(server.bodies) <= 2  # the second may be called off before it is sent


def test_digest_depends_on_what_is_asked_and_on_nothing_else():
    config = OpenAITierConfig(model="large", base_url="http://localhost/v1")
    base = request_digest(QUERIES[0], config)
    assert request_digest(make_query(9, "question 0"), config) == base
    assert request_digest(QUERIES[0], config.model_copy(update={"timeout_s": 1.0, "concurrency": 1})) == base
    for change in ({"model": "other"}, {"max_tokens": 7}, {"temperature": None}, {"logprobs": True}):
        assert request_digest(QUERIES[0], config.model_copy(update=change)) != base
    assert request_digest(QUERIES[1], config) != base


def test_the_schema_is_sent_only_when_the_config_says_so():
    query = make_query(1, schema={"type": "object"})
    for send in (False, True):
        with serve() as server, tier(server.url, send_schema=send) as flagship:
            flagship.answer([query])
        assert ("response_format" in server.bodies[0]) is send
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_logprobs_become_a_confidence_and_a_lone_choice_leaves_the_margin_unknown():
    def reply(body, n):
        assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
        entries = [
            {"token": t, "logprob": math.log(p), "top_logprobs": [{"token": t, "logprob": math.log(p)}, other]}
            for t, p, other in (
                ("a", 0.9, {"token": "x", "logprob": math.log(0.1)}),
                ("b", 0.5, {"token": "y", "logprob": math.log(0.3)}),
            )
        ]
        if n == 2:
            entries[1]["top_logprobs"].pop()
        choice = completion("ab")["choices"][0] | {"logprobs": {"content": entries}}
        return 200, completion("ab", choices=[choice])

    with serve(reply) as server, tier(server.url, logprobs=True, concurrency=1) as flagship:
        full, partial = flagship.answer(QUERIES[:2])
    assert full.confidence.n_tokens == 2
    assert full.confidence.mean_logprob == pytest.approx((math.log(0.9) + math.log(0.5)) / 2)
    assert full.confidence.min_logprob == pytest.approx(math.log(0.5))
    assert full.confidence.margin == pytest.approx(1 - (0.8 + 0.2) / 2)
    assert partial.confidence.margin is None


def test_a_rate_limit_is_retried():
    def reply(body, n):
        return (429, {"error": {"message": "slow down"}}) if n == 1 else (200, completion("x"))

    with serve(reply) as server, tier(server.url, max_retries=2) as flagship:
        assert flagship.answer(QUERIES[:1])[0].text == "x"
    assert len({headers["idempotency-key"] for headers in server.headers}) == 1


def test_one_failure_stops_no_other_and_is_raised_at_the_end():
    def reply(body, n):
        bad = body["messages"][0]["content"] == "question 2"
        return (400, {"error": {"message": "content filter"}}) if bad else (200, completion("x"))

    arrived = []
    with (
        serve(reply) as server,
        tier(server.url) as flagship,
        pytest.raises(TierError, match=r"1 of 6 requests to large failed: status 400: .*content filter"),
    ):
        for query, _ in flagship.iter_answers(QUERIES):
            arrived.append(query.id)
    assert sorted(arrived) == [query.id for query in QUERIES if query.id != "q0002"]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_hopeless_endpoint_is_asked_no_more(status):
    with (
        serve(lambda *_: (status, {"error": {"message": "no"}})) as server,
        tier(server.url, concurrency=1) as flagship,
    ):
        outcomes = list(flagship.iter_outcomes(QUERIES))
    assert len(server.bodies) == 1
    assert len(outcomes) == len(QUERIES)
    assert all(isinstance(outcome, Failure) and not outcome.maybe_billed for _, outcome in outcomes)


def test_failures_in_a_row_stop_the_sending():
    with serve(lambda *_: (500, {})) as server, tier(server.url, concurrency=1) as flagship:
        outcomes = [outcome for _, outcome in flagship.iter_outcomes(QUERIES)]
    assert len(server.bodies) == 4
    assert outcomes[-1].reason.startswith("not sent after 4 failures in a row")


@pytest.mark.parametrize(
    ("reply", "reason", "billed"),
    [
        (lambda *_: (500, {"error": {"message": "broken"}}), "status 500", False),
        (lambda *_: (200, b"<html>proxy</html>"), "malformed reply", True),
        (lambda *_: (200, completion("x", choices=[])), "malformed reply: no choices", True),
        (lambda *_: (200, completion(None)), "malformed reply: no text", True),
        (lambda *_: (200, None), "cannot reach", True),
    ],
)
def test_what_can_go_wrong_is_told_in_one_line(reply, reason, billed):
    failure = outcome_of(reply)
    assert isinstance(failure, Failure)
    assert failure.reason.startswith(reason)
    assert "\n" not in failure.reason
    assert failure.maybe_billed is billed


def test_a_late_answer_may_have_been_billed_and_a_refused_connection_not():
    def late(body, n):
        time.sleep(0.6)
        return 200, completion("x")

    failure = outcome_of(late, timeout_s=0.2)
    assert failure.reason.startswith("no reply within 0.2 s")
    assert failure.maybe_billed
    with serve() as server:
        pass
    with tier(server.url) as flagship:
        failure = next(outcome for _, outcome in flagship.iter_outcomes(QUERIES[:1]))
    assert failure.reason.startswith("cannot reach")
    assert not failure.maybe_billed


def test_missing_usage_stays_unknown():
    answer = outcome_of(lambda *_: (200, completion("x", usage=None)))
    assert isinstance(answer, Answer)
    assert (answer.tokens_in, answer.tokens_out) == (None, None)


def test_a_key_is_needed_except_on_loopback_and_is_sent(monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(ConfigError, match="SOME_KEY is not set"):
        tier("https://models.example/v1", api_key_env="SOME_KEY")
    tier("https://models.example/v1", api_key_env=None)
    tier("http://[::1]:8000/v1", api_key_env="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", "sesame")
    with serve() as server, tier(server.url, api_key_env="SOME_KEY") as flagship:
        flagship.answer(QUERIES[:1])
    assert server.headers[0]["authorization"] == "Bearer sesame"


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serve() as server, tier(server.url) as flagship:
        assert flagship.answer(QUERIES[:1])[0].text == "answer to question 0"
        assert list_models(flagship.config) == ["large"]


def test_models_of_a_dead_endpoint():
    with serve() as server:
        pass
    with pytest.raises(TierError, match="cannot list the models"):
        list_models(OpenAITierConfig(model="large", base_url=server.url))


def test_answers_carry_the_name_of_the_price_table():
    with serve() as server, tier(server.url, name="student-price") as flagship:
        assert flagship.answer(QUERIES[:1])[0].model == "student-price"
    assert server.bodies[0]["model"] == "large"


def test_a_logged_completion_is_an_answer_of_the_model_that_it_names():
    answer = answer_from_completion(completion("x", model="gpt"))
    assert (answer.text, answer.model, answer.tokens_in, answer.latency_s) == ("x", "gpt", 10, None)
    with pytest.raises(ValueError, match="no choices"):
        answer_from_completion({"model": "gpt"})


def with_logprobs(*tokens, text="ab"):
    """A completion whose tokens are (logprob of the chosen, listed log-probs in the endpoint's order)."""
    entries = [
        {"token": "t", "logprob": chosen, "top_logprobs": [{"token": f"t{i}", "logprob": x} for i, x in enumerate(top)]}
        for chosen, top in tokens
    ]
    return completion(text, choices=[completion(text)["choices"][0] | {"logprobs": {"content": entries}}])


@pytest.mark.parametrize(
    ("token", "gap"),
    [
        # OpenAI lists the likeliest in order, whichever was chosen.
        ((math.log(0.6), [math.log(0.6), math.log(0.3)]), 0.3),
        ((math.log(0.3), [math.log(0.6), math.log(0.3)]), 0.3),
        ((math.log(0.05), [math.log(0.6), math.log(0.3)]), 0.3),
        # vLLM lists the chosen token first: of a pair the second likeliest may be missing, of three it is not.
        ((math.log(0.05), [math.log(0.05), math.log(0.6)]), None),
        ((math.log(0.05), [math.log(0.05), math.log(0.6), math.log(0.3)]), 0.3),
        ((math.log(0.3), [math.log(0.3), math.log(0.6), math.log(0.05)]), 0.3),
        ((0.0, [0.0, -9999.0]), 1.0),
        ((0.0, [0.0]), None),
    ],
)
def test_the_margin_is_of_the_two_likeliest_whichever_was_chosen(token, gap):
    answer = outcome_of(lambda *_: (200, with_logprobs(token)), logprobs=True)
    assert answer.confidence.mean_logprob == pytest.approx(token[0])
    assert answer.confidence.margin == (None if gap is None else pytest.approx(1 - gap))


def test_a_sampled_answer_asks_for_three_choices():
    for temperature, wanted in ((0.0, 2), (0.7, 3), (None, 3)):
        config = OpenAITierConfig(model="m", base_url="http://localhost/v1", logprobs=True, temperature=temperature)
        assert request_params(QUERIES[0], config)["top_logprobs"] == wanted


@pytest.mark.parametrize(
    "logprobs",
    [None, {"content": None}, {"content": []}, {"content": [{"token": "a"}]}, {"content": ["a"]}, {"tokens": ["a"]},
     {"content": [{"token": "a", "logprob": None, "top_logprobs": []}]},
     {"content": [{"token": "a", "logprob": -9999.0, "top_logprobs": [{"logprob": -0.1}, {"logprob": -2}]}]}],
)  # fmt: skip
def test_unknown_or_misshapen_log_probabilities_are_no_confidence_and_one_warning(logprobs, caplog):
    choice = completion("x")["choices"][0] | {"logprobs": logprobs}
    with serve(lambda *_: (200, completion("x", choices=[choice]))) as server:
        with tier(server.url, logprobs=True) as cheap:
            answers = cheap.answer(QUERIES, progress=False)
        with pytest.raises(TierError, match=r"returned no log-probabilities for 'large', so token confidence cannot"):
            probe_logprobs(cheap.config)
    assert [answer.confidence for answer in answers] == [None] * len(QUERIES)
    assert [record.levelname for record in caplog.records if record.name == "cascade.client"] == ["WARNING"]
    assert "none is accepted" in caplog.text


def test_a_probe_passes_where_log_probabilities_come_and_names_a_dead_endpoint():
    with serve(lambda *_: (200, with_logprobs((-0.1, [-0.1, -3.0])))) as server:
        config = OpenAITierConfig(model="large", base_url=server.url, max_retries=0)
        probe_logprobs(config)
        assert server.bodies[0]["logprobs"] is True
    with pytest.raises(TierError, match="did not answer: cannot reach"):
        probe_logprobs(config)


def test_samples_are_drawn_with_their_own_seeds_and_keys_and_come_in_order():
    def reply(body, n):
        return 200, completion(f"{body['messages'][0]['content']}/{body['seed']}")

    sampling = SamplingConfig(temperature=0.9, top_p=0.8, seed=3)
    with serve(reply) as server, tier(server.url, concurrency=4, logprobs=True) as cheap:
        drawn = cheap.sample(QUERIES[:3], 4, sampling, progress=False)
        again = cheap.sample(QUERIES[2:3], 4, sampling, progress=False)
        other = cheap.sample(QUERIES[2:3], 4, SamplingConfig(seed=4), progress=False)
    expected = [[f"question {n}/{sample_seed(QUERIES[n], i, 3)}" for i in range(4)] for n in range(3)]
    assert [[sample.text for sample in samples] for samples in drawn] == expected
    assert [sample.text for sample in again[0]] == expected[2], "the batch changes nothing"
    assert not {sample.text for sample in other[0]} & set(expected[2])
    assert {(body["temperature"], body["top_p"]) for body in server.bodies[:12]} == {(0.9, 0.8)}
    assert not any("logprobs" in body for body in server.bodies)
    assert len({headers["idempotency-key"] for headers in server.headers[:12]}) == 12


def test_without_a_seed_each_sample_still_has_a_key_of_its_own():
    with serve() as server, tier(server.url, temperature=None) as reasoning:
        reasoning.sample(QUERIES[:1], 3, SamplingConfig(seed=None), progress=False)
    assert not {"seed", "temperature", "top_p"} & server.bodies[0].keys()
    assert len({headers["idempotency-key"] for headers in server.headers}) == 3


def test_all_samples_in_one_request_are_billed_once():
    def reply(body, n):
        choices = [completion(f"s{i}")["choices"][0] for i in range(body["n"])]
        return 200, completion("", choices=choices[: 2 if "5" in body["messages"][0]["content"] else None])

    with serve(reply) as server, tier(server.url, samples_per_request="all") as cheap:
        whole, short = cheap.sample([QUERIES[0], QUERIES[5]], 3, SamplingConfig(), progress=False)
    assert len(server.bodies) == 2
    assert [sample.text for sample in whole] == ["s0", "s1", "s2"]
    assert [(sample.tokens_in, sample.tokens_out) for sample in whole] == [(10, 5), (0, 0), (0, 0)]
    assert [sample.reason for sample in short] == ["malformed reply: 2 choices in it, 3 asked for"] * 3


def test_a_failed_sample_stands_in_its_place():
    def reply(body, n):
        return (400, {"error": {"message": "no"}}) if n == 2 else (200, completion("x"))

    with serve(reply) as server, tier(server.url, concurrency=1) as cheap:
        drawn = cheap.sample(QUERIES[:2], 2, SamplingConfig(), progress=False)
    kinds = [[type(sample) for sample in samples] for samples in drawn]
    assert kinds == [[Answer, Failure], [Answer, Answer]]
