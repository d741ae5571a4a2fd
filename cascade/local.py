"""The cheap tier in this process: a causal language model, with or without a LoRA adapter, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from tqdm import tqdm

from cascade.confidence import summarise_tokens
from cascade.errors import ConfigError, TierError
from cascade.tiers import Failure, SamplingConfig, sample_seed
from cascade.trace import Answer, Query

NO_GPU = "no GPU"


class LocalTierConfig(BaseModel):
    """Which model, which adapter, and how to run it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_model: str
    """Folder or hub name."""
    name: str = Field(min_length=1)
    """Name that answers carry, as in the price table."""
    revision: str | None = None
    adapter: Path | None = None
    """Folder of a saved LoRA adapter (safetensors)."""
    batch_size: int = Field(default=128, gt=0)
    max_new_tokens: int = Field(default=128, gt=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Auto is bfloat16 on a GPU or a CPU with instructions for it, else float32."""

    @field_validator("base_model", mode="before")
    @classmethod
    def _path_to_text(cls, value: object) -> object:
        return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, slots=True)
class _Job:
    """One answer to make."""

    prompt: list[int]
    """Token ids."""
    seed: int = 0
    """Of its draws, where it is a sample."""


class LocalTier:
    """A loaded model. Raises ConfigError when the base model or adapter cannot be found, TierError when they
    do not fit.

    On a CPU the adapter is merged into the weights (in float32), which changes answers by rounding only; on
    a GPU it stays apart, as a server with many adapters runs it.
    """

    def __init__(self, config: LocalTierConfig) -> None:
        import torch

        self.config = config
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = _choose_dtype(config.dtype, self._device)
        self._tokenizer, model = _load_base(config, torch.float32 if self._device == "cpu" else self._dtype)
        if config.adapter is not None:
            model = _add_adapter(model, config.adapter, merge=self._device == "cpu")
        self._model = model.to(device=self._device, dtype=self._dtype).eval()
        self._end_ids = _end_ids(model, self._tokenizer)
        self._context = int(getattr(model.config, "max_position_embeddings", 0) or 0)

    def answer(self, queries: Sequence[Query], *, progress: bool = True) -> list[Answer]:
        """Greedy answers in the order of `queries`, each with the confidence of its tokens (end token
        included).

        A prompt that leaves no room in the model's context gives an empty answer with finish reason
        "length", which the rules reject. Raises TierError when the chat template cannot render a query.
        """
        jobs = [_Job(prompt) for prompt in self._encode(queries)]
        return self._run(jobs, None, f"answer {self.config.name}", "query", progress)

    def sample(
        self, queries: Sequence[Query], k: int, sampling: SamplingConfig, *, progress: bool = True
    ) -> list[list[Answer | Failure]]:
        """`k` samples of each query, in order; they depend on the seed and the query's messages, not on the batch.

        Raises TierError as `answer` does.
        """
        prompts = self._encode(queries)
        seed = sampling.seed or 0
        jobs = [
            _Job(prompt, sample_seed(query, index, seed))
            for query, prompt in zip(queries, prompts, strict=True)
            for index in range(k)
        ]
        drawn = self._run(jobs, sampling, f"sample {self.config.name}", "sample", progress)
        return [list(drawn[start : start + k]) for start in range(0, len(drawn), k)]

    @property
    def price_name(self) -> str:
        """Name that answers carry and that the price table must list."""
        return self.config.name

    def _run(
        self, jobs: list[_Job], sampling: SamplingConfig | None, label: str, unit: str, progress: bool
    ) -> list[Answer]:
        answers: list[Answer | None] = [None] * len(jobs)
        with tqdm(total=len(jobs), desc=label, unit=unit, leave=None, disable=not progress) as bar:
            for batch in self._batches(jobs):
                for index, answer in zip(batch, self._answer_batch([jobs[i] for i in batch], sampling), strict=True):
                    answers[index] = answer
                bar.update(len(batch))
        return [answer for answer in answers if answer is not None]

    def tokens(self, query: Query, text: str) -> tuple[list[int], int]:
        """Token ids of a query's prompt followed by an answer and its end token, and how many are the prompt's."""
        prompt = self._encode([query])[0]
        answer: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*prompt, *answer, self._end_ids[0]], len(prompt)

    def logprobs(self, ids: Sequence[int]) -> list[float]:
        """Natural log-probability of each token of `ids` but the first, given those before it."""
        import torch

        with torch.inference_mode():
            row = torch.tensor([list(ids)], device=self._model.device)
            logs = self._model(input_ids=row).logits[0, :-1].float().log_softmax(-1)
            found: list[float] = logs.gather(1, row[0, 1:, None])[:, 0].tolist()
        return found

    def _encode(self, queries: Sequence[Query]) -> list[list[int]]:
        if not queries:
            return []
        conversations = [[dict(message) for message in query.messages] for query in queries]
        try:
            texts = self._tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates are programs of the model's author and raise what they like
            raise TierError(f"the chat template of {self.config.base_model} cannot render a query: {error}") from error
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def _batches(self, jobs: list[_Job]) -> Iterator[list[int]]:
        """Indices of prompts of like length, the longest first so that a lack of memory shows at once."""
        order = sorted(range(len(jobs)), key=lambda index: (-len(jobs[index].prompt), index))
        for start in range(0, len(order), self.config.batch_size):
            yield order[start : start + self.config.batch_size]

    def _answer_batch(self, jobs: list[_Job], sampling: SamplingConfig | None) -> list[Answer]:
        """Answers of one batch; halves it when the GPU's memory does not suffice."""
        import torch

        room = [self._room(job.prompt) for job in jobs]
        if min(room) < self.config.max_new_tokens:
            return [self._answer_alone(job, left, sampling) for job, left in zip(jobs, room, strict=True)]
        try:
            return self._decode(jobs, self.config.max_new_tokens, sampling)
        except torch.OutOfMemoryError:
            if len(jobs) == 1:
                raise
            torch.cuda.empty_cache()
        half = len(jobs) // 2
        return self._answer_batch(jobs[:half], sampling) + self._answer_batch(jobs[half:], sampling)

    def _room(self, prompt: list[int]) -> int:
        return self._context - len(prompt) if self._context else self.config.max_new_tokens

    def _answer_alone(self, job: _Job, room: int, sampling: SamplingConfig | None) -> Answer:
        if room > 0:
            return self._decode([job], min(room, self.config.max_new_tokens), sampling)[0]
        return Answer("", self.config.name, len(job.prompt), 0, 0.0, "length")

    def _decode(self, jobs: list[_Job], max_new_tokens: int, sampling: SamplingConfig | None) -> list[Answer]:
        from cascade.decode import greedy, sample

        prompts = [job.prompt for job in jobs]
        pad_id = self._tokenizer.pad_token_id
        pad_id = self._end_ids[0] if pad_id is None else pad_id
        if sampling is None:
            decoded = greedy(self._model, prompts, pad_id, self._end_ids, max_new_tokens)
        else:
            seeds, how = [job.seed for job in jobs], (sampling.temperature, sampling.top_p)
            decoded = sample(self._model, prompts, seeds, pad_id, self._end_ids, max_new_tokens, *how)
        texts = self._tokenizer.batch_decode(
            [row.ids for row in decoded], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [
            Answer(
                text=text,
                model=self.config.name,
                tokens_in=len(prompt),
                tokens_out=len(row.logprobs),
                latency_s=row.seconds,
                finish_reason="stop" if row.ended else "length",
                confidence=summarise_tokens(row.logprobs, row.margins),
            )
            for text, prompt, row in zip(texts, prompts, decoded, strict=True)
        ]


def accelerator_name() -> str:
    """The GPU's name, or NO_GPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else NO_GPU


def _choose_dtype(wanted: str, device: str) -> Any:
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    fast = device == "cuda" or any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
    return torch.bfloat16 if fast else torch.float32


def _load_base(config: LocalTierConfig, dtype: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = config.base_model
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).expanduser().is_dir():
        raise ConfigError(f"base_model {name!r} is not a folder; check the path")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=config.revision)
        model = AutoModelForCausalLM.from_pretrained(name, revision=config.revision, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load base_model {name!r}: {str(error).splitlines()[0]}") from error
    if not tokenizer.chat_template:
        raise ConfigError(f"the tokenizer of {name!r} has no chat template; use a chat model")
    return tokenizer, model


def _add_adapter(model: Any, adapter: Path, *, merge: bool) -> Any:
    """The model with a LoRA adapter, every weight of which must find its place."""
    from peft import PeftConfig, PeftModel

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise ConfigError(f"adapter {adapter} has no {name}; give the folder of a saved LoRA adapter")
    try:
        settings = PeftConfig.from_pretrained(str(adapter))
        settings.inference_mode = True
        wrapped = PeftModel(model, settings)
        result = wrapped.load_adapter(str(adapter), "default", torch_device=str(model.device))
    except (ValueError, RuntimeError) as error:
        raise TierError(f"adapter {adapter} does not fit the base model: {str(error).splitlines()[0]}") from error
    wrong = [*result.missing_keys, *result.unexpected_keys]
    if wrong:
        counts = f"{len(result.missing_keys)} weights missing, {len(result.unexpected_keys)} unexpected"
        raise TierError(f"adapter {adapter} does not fit the base model: {counts} (first: {wrong[0]})")
    return wrapped.merge_and_unload(safe_merge=True) if merge else wrapped.get_base_model()


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    found = getattr(model.generation_config, "eos_token_id", None)
    ids = set(found if isinstance(found, list) else [found]) | {tokenizer.eos_token_id}
    ends = sorted(int(end) for end in ids if end is not None)
    if not ends:
        raise ConfigError("the model has no end-of-turn token (eos_token_id); set one in its generation config")
    return ends
