"""Training speed and memory beside TRL's SFTTrainer and transformers' Trainer:

    python -m benchmarks.train_throughput --model lab --shape short

Each system trains in a fresh process, in turns (A B C, A B C, ...), on the same examples, from the same adapter. TRL's
setting is the quickest of those that --search tries. On a GPU: --device cuda --dtype bfloat16 --model 0.5b or 1.5b.
TRL is no dependency; put it beside: pip install --no-deps --target .opponents/trl trl
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.trainers import Job, Result

ROOT = Path(__file__).resolve().parent.parent
MODELS = {  # hidden, intermediate, layers, heads, key-value heads, vocabulary
    "30m": (384, 1024, 10, 6, 6, 32_000),
    "0.5b": (1024, 2816, 24, 16, 8, 150_000),
    "1.5b": (1536, 8960, 28, 12, 2, 150_000),
}
SHAPES = ("short", "long", "long-shared")
TRL_SETTINGS = {
    "short": ("padded", "accumulate-16", "grouped-16", "grouped-64", "flat", "packed-256", "packed-1024"),
    "long": ("padded", "accumulate-1", "flat", "packed-2048", "packed-4096"),
}


def main() -> None:
    """Prepare model, adapter and data once; run every system in turns; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["lab", *MODELS], default="lab")
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="short",
        help="lab queries; 1,200 / 350 tokens; the same with an opening of 800 tokens common to all",
    )
    parser.add_argument("--systems", default="ours,trl,trainer", help="also ours-padded, ours-packed, ours-in-Trainer")
    parser.add_argument("--trl", default=None, help="TRL's setting; default: the one found best, see docs/training.md")
    parser.add_argument("--search", action="store_true", help="try TRL's settings instead")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--per-step", type=int, default=None, help="examples of a step (64 short, 4 long)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.0, help="of the adapter's input; losses then differ")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--same-process",
        action="store_true",
        help="run all in this process: starts sooner, but memory then says little",
    )
    parser.add_argument("--trl-path", default=".opponents/trl")
    given = parser.parse_args()
    kind = "short" if given.shape == "short" else "long"
    per_step = given.per_step or (64 if kind == "short" else 4)
    settings = TRL_SETTINGS[kind] if given.search else (given.trl or best_trl(kind, given.device),)
    systems = [f"trl:{s}" for s in settings]
    if not given.search:
        systems = [f"trl:{settings[0]}" if s == "trl" else s for s in given.systems.split(",")]
    systems = [s for s in systems if not s.startswith("trl") or has_trl(given.trl_path)]
    with tempfile.TemporaryDirectory() as folder:
        base, adapter, rows = prepare(given, per_step, Path(folder))
        results: dict[str, list[Result]] = {s: [] for s in systems}
        for _ in range(given.repeats):
            for system in systems:
                job = Job(system, base, adapter, rows, per_step, given.device, given.dtype)
                results[system].append(work(job, given, Path(folder)))
                last = results[system][-1]
                print(f"{system}: {last.seconds:.1f} s, CPU {last.cpu_seconds:.1f} s", file=sys.stderr, flush=True)
            report(given, results, per_step)
        if given.device == "cuda":
            utilisation(given, results, Path(base))


def best_trl(kind: str, device: str) -> str:
    """What the search found on two CPU cores; on a GPU packing, which FlashAttention makes quick."""
    if device == "cuda":
        return "packed-4096"
    return {"short": "grouped-16", "long": "accumulate-1"}[kind]


def has_trl(path: str) -> bool:
    """Whether TRL can be compared with; says how to get it when not."""
    if (Path(path) / "trl").is_dir():
        return True
    print(f"no TRL in {path}: pip install --no-deps --target {path} trl", file=sys.stderr)
    return False


def prepare(given: Any, per_step: int, folder: Path) -> tuple[str, str, str]:
    """Folders of the base and the common adapter, and the file of rows."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    lab = ROOT / "lab/models/base"
    tokenizer = AutoTokenizer.from_pretrained(lab)
    torch.manual_seed(0)
    if given.model == "lab":
        base = AutoModelForCausalLM.from_pretrained(lab, dtype=torch.float32)
        base.config.max_position_embeddings = 4096  # rotary positions have no table to outgrow
    else:
        hidden, middle, layers, heads, kv, vocabulary = MODELS[given.model]
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=middle,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        base = LlamaForCausalLM(config)
    base.to(getattr(torch, given.dtype)).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    lora = LoraConfig(
        r=given.rank, lora_alpha=32, lora_dropout=given.dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    get_peft_model(base, lora).save_pretrained(folder / "adapter")
    rows = make_rows(given.shape, given.steps * per_step, tokenizer, base.config.vocab_size)
    (folder / "rows.json").write_text(json.dumps(rows))
    return str(folder / "base"), str(folder / "adapter"), str(folder / "rows.json")


def make_rows(shape: str, n: int, tokenizer: Any, vocabulary: int) -> list[tuple[list[int], int]]:
    """(token ids, prompt length): the lab's own queries and answers, or random tokens of 1,200 / 350 on average."""
    rng = random.Random(7)
    if shape == "short":
        from finetune.encode import encode_example, stop_token_ids
        from lab.traffic import TrafficConfig, generate_traffic

        traffic = generate_traffic(TrafficConfig(early_queries=0, drifted_queries=n), 7)
        rng.shuffle(traffic)
        stops = stop_token_ids(tokenizer)
        encoded = [encode_example(tokenizer, r["id"], r["messages"], r["reference"], stops) for r in traffic]
        return [(list(e.ids), e.n_prompt) for e in encoded]
    common = [rng.randrange(10, vocabulary) for _ in range(800 if shape == "long-shared" else 0)]
    rows = []
    for _ in range(n):
        n_prompt, n_answer = rng.randint(1000, 1400), rng.randint(250, 450)
        own = [rng.randrange(10, vocabulary) for _ in range(n_prompt - len(common) + n_answer)]
        rows.append(([*common, *own], n_prompt))
    return rows


def work(job: Job, given: Any, folder: Path) -> Result:
    """Run one job, in a process of its own unless told otherwise."""
    if given.same_process:
        import torch

        from benchmarks.trainers import run

        sys.path.append(given.trl_path)
        torch.set_num_threads(given.threads)
        return run(job)
    path = folder / "job.json"
    path.write_text(json.dumps(asdict(job)))
    threads = str(given.threads)
    paths = [str(ROOT), *([given.trl_path] if job.system.startswith("trl") else [])]
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-m", "benchmarks.trainers", str(path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{job.system} failed:\n{done.stderr[-2000:]}")
    return Result(**json.loads(done.stdout.splitlines()[-1]))


def report(given: Any, results: dict[str, list[Result]], per_step: int) -> None:
    """Medians with their range, and how far each loss curve is from ours."""
    from flows.console import say, table

    first = next(iter(results))
    reference = results.get("ours", results[first])[0]
    speed = {s: [r.completion_tokens / r.seconds for r in runs] for s, runs in results.items()}
    busy = {s: statistics.median(r.completion_tokens / r.cpu_seconds for r in runs) for s, runs in results.items()}
    n_runs = min(len(runs) for runs in results.values())
    name = "ours" if "ours" in results else first
    mine = statistics.median(speed[name])
    rows = []
    for system, runs in results.items():
        values = speed[system]
        rows.append(
            {
                "system": system,
                "completion tokens/s": f"{statistics.median(values):,.0f} [{min(values):,.0f}, {max(values):,.0f}]",
                f"{name} is": f"{mine / statistics.median(values):.2f} x",
                "per CPU second": f"{busy[system]:,.0f}",
                "by that": f"{busy[name] / busy[system]:.2f} x",
                "peak MB above start": f"{statistics.median(r.peak_mb for r in runs):,.0f}",
                "largest loss difference": difference(reference, runs[0]),
                "last loss": f"{runs[0].losses[-1]:.4f}",
            }
        )
    mean, answer = reference.tokens / (given.steps * per_step), reference.completion_tokens / (given.steps * per_step)
    lengths = f"{mean - answer:.0f} / {answer:.0f} tokens on average"
    table(f"{given.model}, {given.shape} ({lengths}), {given.steps} steps of {per_step}, {n_runs} runs each", rows)
    say(
        f"{given.device}, {given.dtype}, {given.threads} threads, rank {given.rank}, dropout {given.dropout}; medians"
        f" with range; made by: python -m benchmarks.train_throughput {' '.join(sys.argv[1:])}"
    )


def difference(one: Result, other: Result) -> str:
    """Largest relative difference of two loss curves step by step, where the steps hold the same examples."""
    name = other.system
    if len(one.losses) != len(other.losses) or "grouped" in name or "packed-" in name:
        return "other steps"
    return f"{max(abs(a - b) / abs(a) for a, b in zip(one.losses, other.losses, strict=True)):.3%}"


def utilisation(given: Any, results: dict[str, list[Result]], base: Path) -> None:
    """Model FLOP utilisation against the best bfloat16 matrix product measured on this GPU."""
    import torch

    from flows.console import say

    n = 8192
    one = torch.randn(n, n, device=given.device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        one @ one
        torch.cuda.synchronize()
        best = max(best, 2 * n**3 / (time.perf_counter() - began))
    config = json.loads((base / "config.json").read_text())
    hidden, layers, vocabulary = config["hidden_size"], config["num_hidden_layers"], config["vocab_size"]
    kv = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    per_token = 4 * layers * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * config["intermediate_size"])
    for system, runs in results.items():
        r = runs[0]
        length = r.tokens / (given.steps * (given.per_step or (64 if given.shape == "short" else 4)))
        needed = r.tokens * (per_token + 6 * length * hidden * layers) + 4 * r.completion_tokens * hidden * vocabulary
        share = statistics.median(needed / x.seconds for x in runs) / best
        say(f"{system}: {share:.1%} of {best / 1e12:.0f} TFLOP/s (frozen weights need 4 FLOP per weight and token)")


if __name__ == "__main__":
    main()
