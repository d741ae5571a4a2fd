"""Where training stands, in one file that is replaced whole: a kill costs a few steps at most."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Progress:
    """The changing parts of one training run."""

    plan: str
    """Digest of spec, data and order; a checkpoint of another plan is not used."""
    weights: dict[str, Any]
    """Trainable parameters by name."""
    optimizer: Any
    losses: list[float]
    """Of every step done; their number is the position."""
    seconds: float
    """Training time over all starts."""
    validation: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean loss on the examples held back)."""
    best: dict[str, Any] | None = None
    """The weights at the lowest validation loss."""

    def validated(self, step: int, loss: float) -> None:
        """Note a validation loss, and the weights when it is the lowest so far."""
        if not self.validation or loss < min(known for _, known in self.validation):
            self.best = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.validation.append((step, loss))

    def stalled(self, patience: int) -> bool:
        """Whether the last `patience` validations brought no lower loss."""
        losses = [loss for _, loss in self.validation]
        return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])

    def restore_best(self) -> None:
        """Go back to the weights of the lowest validation loss, where there was a validation."""
        import torch

        with torch.no_grad():
            for name, value in (self.best or {}).items():
                self.weights[name].copy_(value)


def save(path: Path, progress: Progress) -> None:
    """Write tensors and plain values only, so that loading needs no unpickling of code."""
    import torch

    state = {
        "plan": progress.plan,
        "weights": {name: weight.detach().cpu() for name, weight in progress.weights.items()},
        "optimizer": progress.optimizer.state_dict(),
        "losses": progress.losses,
        "seconds": progress.seconds,
        "validation": progress.validation,
        "best": progress.best,
    }
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def resume(path: Path, progress: Progress) -> None:
    """Bring `progress` to the checkpoint's state, where there is one of the same plan."""
    import torch

    if not path.is_file():
        return
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["plan"] != progress.plan:
        print(f"the checkpoint in {path.parent} is of another spec; starting over", file=sys.stderr)
        return
    with torch.no_grad():
        for name, weight in progress.weights.items():
            weight.copy_(state["weights"][name])
    progress.optimizer.load_state_dict(state["optimizer"])
    progress.losses[:] = state["losses"]
    progress.seconds = float(state["seconds"])
    progress.validation[:] = [(int(step), float(loss)) for step, loss in state["validation"]]
    progress.best = state["best"] and {n: w.to(progress.weights[n].device) for n, w in state["best"].items()}
