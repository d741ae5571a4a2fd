"""The fleet's client: what servers say is passed on, and a request finds a server that answers."""

import pytest
from loopback import completion, make_query, serve

from cascade.errors import TierError
from cascade.fleet import FleetTier, Replica
from cascade.request import OpenAITierConfig

CONFIG = OpenAITierConfig(model="small", base_url="http://127.0.0.1/v1", api_key_env=None, concurrency=3)


def missing(name):
    message = f"The model `{name}` does not exist."
    return 404, {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}}


def naming(body, _):
    return 200, completion(f"{body['model']}: {body['messages'][-1]['content']}")


def test_answers_come_in_order_from_every_server():
    with serve(naming) as one, serve(naming) as two:
        tier = FleetTier(CONFIG, [one.url, two.url], lambda: "support-v1")
        queries = [make_query(i) for i in range(9)]
        answers = tier.answer([*queries, queries[0]], progress=False)
        tier.close()
    assert [a.text for a in answers] == [f"support-v1: question {i}" for i in [*range(9), 0]]
    assert {a.model for a in answers} == {"small"}
    assert len(one.bodies) == len(two.bodies) == 5


def test_a_name_that_was_unloaded_meanwhile_is_asked_for_anew():
    names = iter(["support-v1", "support-v3", "support-v3"])

    def only_v3(body, number):
        return naming(body, number) if body["model"] == "support-v3" else missing(body["model"])

    with serve(only_v3) as one:
        tier = FleetTier(CONFIG, [one.url], lambda: next(names))
        answers = tier.answer([make_query(i) for i in range(3)], progress=False)
        tier.close()
    assert {a.text.split(":")[0] for a in answers} == {"support-v3"}


def test_a_server_that_is_down_is_passed_over():
    def dead(body, _):
        return 200, None

    with serve(dead) as one, serve(naming) as two, serve(naming) as three:
        tier = FleetTier(CONFIG, [one.url, two.url, three.url], lambda: "v")
        answers = tier.answer([make_query(i) for i in range(12)], progress=False)
        tier.close()
    assert len(answers) == 12
    assert len(one.bodies) > 0


def test_when_every_attempt_fails_the_reason_is_told():
    with serve(lambda body, n: missing(body["model"])) as one:
        tier = FleetTier(CONFIG, [one.url], lambda: "gone")
        with pytest.raises(TierError, match=r"2 of 2 requests to the fleet failed 4 times: .*`gone` does not exist"):
            tier.answer([make_query(0), make_query(1)], progress=False)
        tier.close()


def test_a_replica_passes_the_servers_words_on():
    replies = {
        "new": (400, {"error": {"message": "rank 64 is greater\n than 16", "type": "x", "param": None, "code": 400}}),
        "old": (400, {"object": "error", "message": "already loaded", "type": "x", "code": 400}),
        "raw": (502, b"bad gateway"),
        "list": (200, ["not an object"]),
    }

    with serve(lambda body, n: replies[body["lora_name"]]) as server, Replica(server.url) as replica:
        assert [m.name for m in replica.models()] == ["large"]
        for name, words in (("new", "status 400: rank 64 is greater than 16"), ("old", "status 400: already loaded"),
                            ("raw", "status 502: bad gateway"), ("list", "reply is no JSON")):  # fmt: skip
            with pytest.raises(TierError, match=words):
                replica.load(name, "/x")


def test_log_probabilities_of_the_prompt():
    def reply(body, _):
        assert (body["echo"], body["max_tokens"], body["prompt"]) == (True, 1, [5, 6, 7])
        return 200, {"choices": [{"logprobs": {"token_logprobs": [None, -0.5, -1.5, -9.0]}}]}

    with serve(reply) as server, Replica(server.url) as replica:
        assert replica.logprobs("m", [5, 6, 7]) == [-0.5, -1.5]
    silent = {"choices": [{"logprobs": None}]}
    with (
        serve(lambda body, n: (200, silent)) as server,
        Replica(server.url) as replica,
        pytest.raises(TierError, match="no log-probabilities"),
    ):
        replica.logprobs("m", [5, 6, 7])
