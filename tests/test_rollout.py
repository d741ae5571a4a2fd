"""Rollout to a fleet of servers that speak vLLM's endpoints: no request fails, no fault gets past the canary."""

import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from loopback import make_query
from tiny_student import make_student
from vllm_loopback import BASE, Models, fleet

from cascade.errors import PromotionConflict, RolloutError, TierError
from cascade.fleet import FleetTier, Replica
from cascade.local import LocalTier, LocalTierConfig
from cascade.request import OpenAITierConfig
from promotion.registry import Registry
from promotion.rollout import Probe, RolloutConfig, roll_out

torch = pytest.importorskip("torch")
QUERIES = [make_query(n, f"what is {n} and {n + 1}") for n in range(3)]
BY = {"who": "ana", "why": "cheaper"}


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(folder)
    return folder


class World:
    """A base model, adapters on it, and what each says of a few answers."""

    def __init__(self, folder: Path, n_adapters: int) -> None:
        self.base = make_student(folder / "base")
        self.models = Models(self.base)
        self.adapters = [make_adapter(self.base, folder / f"adapter-{i}", i) for i in range(n_adapters)]
        self.base_tier = LocalTier(LocalTierConfig(base_model=str(self.base), name="base"))

    def probes(self, adapter: Path) -> list[Probe]:
        trained = self.models.tier(adapter)
        probes = []
        for query in QUERIES:
            ids, n_prompt = self.base_tier.tokens(query, "a known answer")
            sides = [tuple(self.models.logprobs(t, ids)[n_prompt - 1 :]) for t in (trained, self.base_tier)]
            probes.append(Probe(tuple(ids), n_prompt, *sides))
        return probes


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("rollout"), 6)


@pytest.fixture
def registry(tmp_path):
    registry = Registry(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path / "registry")
    yield registry
    registry.close()


class Deployment:
    """What flows/deploy.py does, with the probes made beforehand."""

    def __init__(self, world, registry, servers, **settings):
        self.world, self.registry = world, registry
        self.config = RolloutConfig(replicas=[s.url for s in servers], timeout_s=10, **settings)

    def register(self, i):
        return self.registry.register(name="support", base_model="base", adapter=self.world.adapters[i], run_id=f"r{i}")

    def promote(self, i, against=None):
        version = self.register(i)
        champion = self.registry.aliases().get("champion")
        serving = self.registry.get(champion).serving_name if champion else None

        def switch():
            self.registry.promote(version.id, measured_against=against or champion, **BY)

        done = roll_out(
            version.serving_name,
            version.adapter,
            self.config,
            self.world.probes(self.world.adapters[i]),
            switch=switch,
            serving=serving,
            ours="support",
        )
        return version, done

    def champion_name(self):
        return self.registry.resolve("champion").serving_name


def adapters_of(server):
    return sorted(server.names())


def test_a_promotion_loads_checks_flips_and_keeps_the_previous(world, registry):
    with fleet(world.models) as servers:
        deployment = Deployment(world, registry, servers)
        names = []
        for i in range(3):
            version, done = deployment.promote(i)
            names.append(version.serving_name)
            assert done.warnings == ()
            assert [step.what for step in done.steps] == ["load", "canary"] * 3
            assert registry.aliases()["champion"] == version.id
        for server in servers:
            assert adapters_of(server) == sorted(names[1:])
        assert names[2].startswith("support-v3-")


def test_the_way_back_needs_no_load(world, registry):
    with fleet(world.models) as servers:
        deployment = Deployment(world, registry, servers)
        first, _ = deployment.promote(0)
        second, _ = deployment.promote(1)
        loads = sum(path == "load_lora_adapter" for s in servers for path, _ in s.calls)
        done = roll_out(
            first.serving_name,
            first.adapter,
            deployment.config,
            world.probes(world.adapters[0]),
            switch=lambda: registry.rollback(**BY),
            serving=second.serving_name,
            ours="support",
        )
        assert [step.what for step in done.steps] == ["loaded before"] * 3
        assert sum(path == "load_lora_adapter" for s in servers for path, _ in s.calls) == loads
        assert registry.aliases() == {"champion": first.id, "previous": second.id}
        assert all(len(adapters_of(s)) == 2 for s in servers)


@pytest.mark.parametrize(
    ("fault", "message", "where"),
    [  # on the last server two others have loaded before the fault shows
        ("base", "answers as the base model", 0),
        ("base", "answers as the base model", 2),
        ("stale", "answers as another model", 2),
        ("400", r"status 400: LoRA rank 64 is greater than max_lora_rank 16", 2),
        ("500", r"status 500: LoRA rank 64", 1),
        ("unlisted", r"does not list support-v2", 2),
        ("hang-up", "RemoteProtocolError", 2),
        ("down", "RemoteProtocolError", 0),
        ("down", "RemoteProtocolError", 2),
    ],
)
def test_a_fault_is_refused_and_the_champion_serves_on(world, registry, fault, message, where):
    with fleet(world.models) as servers:
        deployment = Deployment(world, registry, servers)
        champion, _ = deployment.promote(0)
        servers[where].fault = fault
        with pytest.raises(RolloutError, match=message) as error:
            deployment.promote(1)
        assert f"{champion.serving_name} serves on" in str(error.value)
        assert registry.aliases()["champion"] == champion.id
        assert [e.action for e in registry.history()] == ["register", "promote", "register"]
        servers[where].fault = None
        for server in servers:  # what was loaded before the fault showed is gone again, on every server
            assert adapters_of(server) == [champion.serving_name]
        answered = ask(deployment)
        assert answered == {champion.serving_name}
        again, _ = deployment.promote(1)  # and the same version goes out once the fault is mended
        assert ask(deployment) == {again.serving_name}


def ask(deployment, n=6):
    config = OpenAITierConfig(model="x", base_url="http://127.0.0.1/v1", api_key_env=None)
    tier = FleetTier(config, deployment.config.replicas, deployment.champion_name)
    try:
        return {a.text for a in tier.answer([make_query(i) for i in range(n)], progress=False)}
    finally:
        tier.close()


def test_a_half_loaded_fleet_that_loses_a_server_before_the_flip_does_not_flip(world, registry):
    with fleet(world.models) as servers:
        deployment = Deployment(world, registry, servers)
        champion, _ = deployment.promote(0)
        reply = servers[2].reply

        def then_the_first_dies(path, body):
            servers[0].fault = "down"
            return reply(path, body)

        servers[2].reply = then_the_first_dies
        with pytest.raises(RolloutError, match=r"could not be unloaded from http://127.0.0.1"):
            deployment.promote(1)
        assert registry.aliases()["champion"] == champion.id
        assert adapters_of(servers[1]) == adapters_of(servers[2]) == [champion.serving_name]


def test_what_a_killed_rollout_left_is_not_trusted(world, registry):
    with fleet(world.models) as servers:
        deployment = Deployment(world, registry, servers)
        deployment.promote(0)
        version = deployment.register(1)
        with Replica(servers[1].url) as replica:  # under the name to come lies another adapter
            replica.load(version.serving_name, str(world.adapters[3]))
        promoted, done = deployment.promote(1)
        assert promoted.id == version.id
        assert [s.what for s in done.steps] == ["load", "canary"] * 3
        assert ("unload_lora_adapter", version.serving_name) in servers[1].calls


def test_two_promotions_at_once_one_wins_and_the_other_is_told(world, registry):
    with fleet(world.models) as servers:
        deployment = Deployment(world, registry, servers)
        first, _ = deployment.promote(0)
        ready = threading.Barrier(2)

        def run(i):
            ready.wait()
            try:
                return deployment.promote(i, against=first.id)[0].serving_name
            except (PromotionConflict, RolloutError) as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(run, (1, 2)))
        won = [r for r in results if isinstance(r, str)]
        lost = [r for r in results if not isinstance(r, str)]
        assert len(won) == len(lost) == 1
        assert deployment.champion_name() == won[0]
        assert "was measured against v1" in str(lost[0]) or "was not rolled out" in str(lost[0])
        assert [e.action for e in registry.history()].count("promote") == 2
        assert all(won[0] in adapters_of(s) and first.serving_name in adapters_of(s) for s in servers)
        assert ask(deployment) == {won[0]}


def test_the_loser_of_two_promotions_cleans_up_after_itself(world, registry):
    with fleet(world.models) as servers:
        deployment = Deployment(world, registry, servers)
        first, _ = deployment.promote(0)
        second, _ = deployment.promote(1)
        with pytest.raises(PromotionConflict, match="v3 was measured against v1, but v2 is champion now"):
            deployment.promote(2, against=first.id)
        assert all(adapters_of(s) == sorted([first.serving_name, second.serving_name]) for s in servers)


def test_through_the_resolver_folder(world, registry, tmp_path):
    folder = tmp_path / "resolver"
    with fleet(world.models, resolver=folder) as servers:
        deployment = Deployment(world, registry, servers, via="resolver", folder=folder, served_base=BASE)
        (folder / "support-v1-of-somebody-else").mkdir(parents=True)
        versions = [deployment.promote(i)[0] for i in range(3)]
        (folder / "support-v1-of-somebody-else").rmdir()  # which was left alone
        names = sorted(v.serving_name for v in versions[1:])
        assert all(adapters_of(s) == names for s in servers)
        assert sorted(p.name for p in folder.iterdir()) == names
        assert not any(path == "load_lora_adapter" for s in servers for path, _ in s.calls)
        settings = json.loads((folder / names[0] / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == BASE
        servers[1].fault = "base"
        with pytest.raises(RolloutError, match="answers as the base model"):
            deployment.promote(3)
        assert sorted(p.name for p in folder.iterdir()) == names
        assert all(adapters_of(s) == names for s in servers)


def test_a_canary_that_tells_nothing_is_refused(world, registry):
    with fleet(world.models, n=1) as servers:
        deployment = Deployment(world, registry, servers, tolerance=50.0)
        with pytest.raises(RolloutError, match="cannot tell the adapter from the base model"):
            deployment.promote(0)
        assert servers[0].calls == []


def promote_under_load(folder, n_promotions, n_clients=3):
    """Promotions while clients ask; (requests answered, failures, answers by names that never served)."""
    world = World(folder, n_promotions)
    registry = Registry(f"sqlite:///{folder / 'registry.db'}", folder / "registry")
    answered, failures, strange, stop = [], [], [], threading.Event()
    with fleet(world.models) as servers:
        deployment = Deployment(world, registry, servers)
        deployment.promote(0)

        def client(seed):
            rng = random.Random(seed)
            config = OpenAITierConfig(model="x", base_url="http://127.0.0.1/v1", api_key_env=None, concurrency=2)
            tier = FleetTier(config, deployment.config.replicas, deployment.champion_name)
            while not stop.is_set():
                batch = [make_query(rng.randrange(10_000)) for _ in range(rng.randrange(1, 7))]
                before = {v.serving_name for v in registry.versions()}
                try:
                    got = [a.text for a in tier.answer(batch, progress=False)]
                except TierError as error:
                    failures.append(str(error))
                    continue
                answered.extend(got)
                # An answer comes from a version that had been registered by the time the batch was through.
                strange.extend(set(got) - before - {v.serving_name for v in registry.versions()})
                time.sleep(0.001)
            tier.close()

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(n_clients)]
        for thread in threads:
            thread.start()
        try:
            for i in range(1, n_promotions):
                deployment.promote(i)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        left = {tuple(adapters_of(s)) for s in servers}
        previous = registry.resolve("previous").serving_name
        assert left == {tuple(sorted([deployment.champion_name(), previous]))}
    registry.close()
    return answered, failures, strange


def test_no_request_fails_while_versions_change(tmp_path):
    n = int(os.environ.get("ROLLOUT_PROMOTIONS", "12"))
    answered, failures, strange = promote_under_load(tmp_path, n)
    print(f"{n} promotions, {len(answered)} requests answered by {len(set(answered))} versions, {len(failures)} failed")
    assert failures == []
    assert strange == []
    assert len(set(answered)) >= 6  # the load did meet the changes
