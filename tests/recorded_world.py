"""A small file of recorded answers: sums that a cheap model gets right on most short ones."""

import json
import random
from pathlib import Path

CHEAP, PEER, FLAGSHIP = "small", "other-small", "large"
PRICES = """prices:
  small: {input_per_million: 0.1, output_per_million: 0.1}
  other-small: {input_per_million: 0.2, output_per_million: 0.2}
  large: {input_per_million: 10, output_per_million: 30}
"""


def rows(n: int = 200) -> list[dict]:
    """Three models' answers to n sums. Wrong cheap answers mostly state a wrong calculation."""
    chance = random.Random(7)
    found = []
    for number in range(n):
        first, second = chance.randint(10, 99), chance.randint(10, 99)
        truth = first + second
        for model, right in ((CHEAP, 0.6), (PEER, 0.7), (FLAGSHIP, 0.97)):
            correct = chance.random() < right
            value = truth if correct else truth + chance.randint(1, 9)
            shown = value if chance.random() < 0.8 else truth
            text = f"{first} + {second} = {shown}.\n#### {value}"
            found.append({"id": f"q{number}", "model": model, "text": text, "correct": correct})
            if model == CHEAP:
                found[-1]["query"] = f"What is {first} plus {second}?"
    return found


def write(path: Path, content: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path
