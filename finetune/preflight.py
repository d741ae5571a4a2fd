"""Checks before and after training that catch what would otherwise fail silently."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.errors import ConfigError, StageError
from finetune.adapter import CONFIG, RECORD, WEIGHTS
from finetune.encode import EncodedExample, encode_example, stop_token_ids
from finetune.student import load_base
from finetune.training_set import TrainingExample, heldout_key, user_text

if TYPE_CHECKING:
    from finetune.loss import Gradients
    from finetune.spec import TrainSpec

_TOLERANCE = 1e-3  # of logits; the same weights over the same base differ by rounding at most
_ROUNDING = {"float32": (1e-4, 1e-3), "bfloat16": (2e-2, 2e-1)}  # of a loss, of a gradient; relative
_DATA_ONLY = {".safetensors", ".json", ".jsonl", ".md", ".jinja", ".txt"}


def check_before(encoded: Sequence[EncodedExample], steps: Sequence[list[int]], stop_ids: Collection[int]) -> None:
    """Raise StageError unless every example trains an answer with a stop token, and there are steps."""
    if not encoded:
        raise StageError("No training example is left that fits max_length; raise it or add examples.")
    for example in encoded:
        if example.n_prompt < 1 or example.n_completion < 1:
            raise StageError(
                f"Example {example.id!r} has {example.n_prompt} prompt and {example.n_completion} completion "
                "tokens; both must be there for a loss."
            )
        if example.ids[-1] not in stop_ids:
            raise StageError(
                f"Example {example.id!r} ends in token {example.ids[-1]}, which is no stop token; "
                "the student would never learn to stop."
            )
    if not steps:
        raise StageError("token_budget is smaller than the first example; raise it.")


def check_base(spec: TrainSpec, found: str) -> None:
    """Raise ConfigError when the base model's files (`found`: their digest) are not those pinned.

    Pinned are `base_digest` and the base that `init_adapter` was trained on: an adapter on another revision of its base
    loads without a word and answers wrongly.
    """
    pins = {"base_digest": spec.base_digest}
    if spec.init_adapter is not None and (spec.init_adapter / RECORD).is_file():
        pins["init_adapter"] = json.loads((spec.init_adapter / RECORD).read_text()).get("base_digest")
    for name, pin in pins.items():
        if pin is not None and pin != found:
            raise ConfigError(
                f"The base model {spec.base_model!r} (revision {spec.revision}) has digest {found[:12]}, and {name} "
                f"says {pin[:12]}; use the revision that was pinned, or train from it anew."
            )
    if spec.base_digest is None and spec.revision is None and not Path(spec.base_model).is_dir():
        print(f"{spec.base_model} has no pinned revision; pin it by train.base_digest: {found}", file=sys.stderr)


def check_heldout(examples: Sequence[TrainingExample], heldout: Path | None) -> None:
    """Raise StageError when an example's query is one of the held-out ones, whose keys the file lists."""
    if heldout is None:
        return
    keys = set(heldout.read_text().split())
    inside = [e.id for e in examples if heldout_key(user_text(e)) in keys]
    if inside:
        raise StageError(
            f"{len(inside)} of {len(examples)} training examples ask a held-out query ({inside[0]!r}); "
            "the evaluation would be of what was learnt by heart. Build the training set again."
        )


def check_template(
    tokenizer: Any, examples: Sequence[TrainingExample], encoded: Sequence[EncodedExample], serving: Path | None
) -> None:
    """Raise StageError unless the server's chat template gives the very prompts that are trained on.

    Without a template of its own the server uses the tokenizer's, by the one call that LocalTier and vLLM make.
    """
    template = serving.read_text() if serving is not None else None
    trained = {e.id: e for e in encoded}
    for example in [e for e in examples if e.id in trained][:50]:
        served = tokenizer.apply_chat_template(
            [dict(m) for m in example.messages],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        prompt = trained[example.id].ids[: trained[example.id].n_prompt]
        if tuple(served) != prompt:
            raise StageError(
                f"Example {example.id!r} is served as {len(served)} tokens ending {tokenizer.decode(served[-8:])!r} "
                f"and trained as {len(prompt)} ending {tokenizer.decode(prompt[-8:])!r}; use one template for both."
            )


def probe_template(base_model: str, revision: str | None, serving: Path | None) -> str:
    """Check a base model's chat template on one conversation, as a training would; the end-of-turn token.

    Raises StageError as `check_template` and `encode_example` do, ConfigError where tokenizer or template are missing.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model, revision=revision)
        if serving is not None:
            serving.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the tokenizer or template of {base_model!r} cannot be read: {error}") from error
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(f"the tokenizer of {base_model!r} has no chat template: choose an instruct model")
    probe = TrainingExample("probe", ({"role": "user", "content": "hello"},), "good day", "flagship")
    stops = stop_token_ids(tokenizer)
    check_template(
        tokenizer, [probe], [encode_example(tokenizer, "probe", probe.messages, probe.answer, stops)], serving
    )
    return str(tokenizer.decode(sorted(stops)))


def check_rank(config: Any, max_rank: int) -> None:
    """Raise ConfigError when vLLM would refuse the adapter: by its rank, layers, bias, DoRA or saved modules."""
    rank = max([config.r, *(config.rank_pattern or {}).values()])
    if rank > max_rank:
        raise ConfigError(
            f"The adapter's rank {rank} is above max_serving_rank {max_rank}; lower the rank, or raise both "
            "this and the server's --max-lora-rank."
        )
    targets = {str(name).rsplit(".", maxsplit=1)[-1] for name in config.target_modules or ()}
    refused = targets & {"lm_head", "embed_tokens"}
    if refused or config.modules_to_save or config.bias != "none" or getattr(config, "use_dora", False):
        raise ConfigError(
            f"vLLM serves no adapter on {sorted(refused) or 'these parts'} (modules_to_save {config.modules_to_save}, "
            f"bias {config.bias!r}); train linear layers inside the decoder only."
        )


def check_loss(gradients: Gradients, encoded: Sequence[EncodedExample]) -> Gradients:
    """The same `gradients` when its loss is the plain one, else those of the padded layout; StageError when that fails.

    Plain is: each example alone, all logits, the answer's tokens counted. A layout that lets examples see each other,
    counts other tokens, or has a wrong gradient differs from it. The adapter is stirred meanwhile, since at
    first it does nothing.
    """
    samples = sorted(encoded, key=lambda e: len(e.ids))[:3]
    problem = find_fault(gradients, samples)
    if problem is None:
        return gradients
    if gradients.layout == "padded":
        raise StageError(f"The loss cannot be trusted: {problem}.")
    print(f"layout {gradients.layout} is not used: {problem}; padded takes its place", file=sys.stderr)
    return check_loss(type(gradients)(gradients.model, gradients.micro_tokens, "padded"), encoded)


def find_fault(gradients: Gradients, samples: Sequence[EncodedExample]) -> str | None:
    """What is wrong with the loss on these examples, or None."""
    import torch

    model = gradients.model
    kind = str(model.get_base_model().dtype).removeprefix("torch.")
    near, near_gradient = _ROUNDING.get(kind, _ROUNDING["bfloat16"])
    weights = [p for p in model.parameters() if p.requires_grad]
    with _stirred(model):
        gradients.refresh()
        wanted = []
        for example in samples:
            one = plain_loss(model, example)
            one.backward()
            wanted.append(float(one.detach()))
            with torch.no_grad():
                alone = float(gradients.loss([example]))
            if not abs(alone - wanted[-1]) <= near * abs(wanted[-1]) + near:
                return f"example {example.id!r} has loss {alone:.5g}, not {wanted[-1]:.5g}: other tokens count"
        plain = torch.cat([p.grad.flatten().clone() for p in weights if p.grad is not None])
        model.zero_grad(set_to_none=True)
        together = gradients.loss(list(samples))
        together.backward()  # type: ignore[no-untyped-call]
        ours = torch.cat([p.grad.flatten() for p in weights if p.grad is not None])
        loss = float(together.detach())
        if not abs(loss - sum(wanted)) <= near * abs(sum(wanted)) + near:
            apart = f"{loss:.5g} together and {sum(wanted):.5g} apart"
            return f"{len(samples)} examples have loss {apart}: they see each other"
        if ours.shape != plain.shape or not float((ours - plain).norm()) <= near_gradient * float(plain.norm()):
            return "the gradient differs from the plain one"
    return None


def plain_loss(model: Any, example: EncodedExample) -> Any:
    """Sum of the cross-entropy of one example's answer tokens, by its definition."""
    import torch

    ids = torch.tensor([example.ids], device=next(model.parameters()).device)
    logits = model(input_ids=ids).logits[0, example.n_prompt - 1 : -1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, example.n_prompt :], reduction="sum")


@contextmanager
def _stirred(model: Any) -> Iterator[None]:
    """A small random lora_B, without dropout and without a trace afterwards."""
    import torch

    training = model.training
    model.eval()
    raised = {n: p for n, p in model.named_parameters() if "lora_B" in n}
    before = {n: p.detach().clone() for n, p in raised.items()}
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in raised.values():
            p.add_(torch.randn(p.shape, generator=noise).to(p.device, p.dtype), alpha=0.02)
    try:
        yield
    finally:
        with torch.no_grad():
            for n, p in raised.items():
                p.copy_(before[n])
        model.zero_grad(set_to_none=True)
        model.train(training)


def check_after(folder: Path, spec: TrainSpec, model: Any, samples: Sequence[EncodedExample]) -> None:
    """Raise StageError unless the saved adapter is what was trained.

    Some lora_B must have moved from zero and none hold NaN; the folder must hold tensors and text only; and
    loaded onto a fresh base it must have no missing or unexpected key and give the trained model's logits.
    """
    import torch

    moved = [n for n, p in model.named_parameters() if "lora_B" in n and bool(p.detach().abs().max() > 0)]
    broken = [n for n, p in model.named_parameters() if p.requires_grad and not bool(torch.isfinite(p).all())]
    if broken:
        raise StageError(f"{len(broken)} adapter weights are not finite ({broken[0]}); lower learning_rate.")
    if not moved:
        raise StageError("No lora_B moved from zero: nothing was learnt; check learning_rate and the examples.")
    check_files(folder)
    reloaded = reload_adapter(folder, spec, model)
    for example in samples:
        difference = _largest_difference(model, reloaded, example)
        if not difference <= _TOLERANCE:
            raise StageError(f"The saved adapter's logits differ from the trained model's by {difference:.3g}.")


def check_files(folder: Path) -> None:
    """Raise StageError when an adapter folder holds what could run code when it is loaded, or lacks its weights."""
    files = {file.name for file in folder.iterdir()}
    unsafe = sorted(name for name in files if Path(name).suffix not in _DATA_ONLY)
    if unsafe or not {WEIGHTS, CONFIG} <= files:
        raise StageError(
            f"The adapter folder {folder} must hold {WEIGHTS}, no pickles and no code, and has {sorted(files)}."
        )
    settings = json.loads((folder / CONFIG).read_text())
    if settings.get("auto_mapping") or settings.get("auto_map"):
        raise StageError(f"{folder / CONFIG} names code of its own to load (auto_map); remote code is not run.")


def reload_adapter(folder: Path, spec: TrainSpec, like: Any) -> Any:
    """The adapter on a fresh base like `like`. Raises StageError on a missing or unexpected key."""
    from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict

    base = load_base(spec, like.device)
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    model = PeftModel(base, config)
    found = set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
    missing = [key for key in found.missing_keys if "lora_" in key]
    if missing or found.unexpected_keys:
        raise StageError(
            f"The adapter in {folder} does not fit the base model: {len(missing)} keys missing, "
            f"{len(found.unexpected_keys)} unexpected ({[*missing, *found.unexpected_keys][0]})."
        )
    return model.to(like.device).eval()


def fingerprint(spec: TrainSpec, steps: Sequence[list[int]]) -> str:
    """Digest of all that decides the trained weights, by which a checkpoint is known to be of this run."""
    elsewhere = {"out", "examples", "heldout", "checkpoint_every_steps", "max_serving_rank", "serving_template"}
    settings = spec.model_dump(mode="json", exclude=elsewhere)
    data = hashlib.sha256(spec.examples.read_bytes()).hexdigest()
    text = json.dumps([settings, data, steps], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _largest_difference(one: Any, other: Any, example: EncodedExample) -> float:
    import torch

    ids = torch.tensor([example.ids], device=one.device)
    with torch.no_grad():
        return float((one(input_ids=ids).logits.float() - other(input_ids=ids).logits.float()).abs().max())
