"""What the README and the docs say can be done, can be done."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNNER = CliRunner()


def shell_lines() -> list[str]:
    """Every line of every shell block, comments apart."""
    fences = [
        found for page in PAGES for found in re.findall(r"^ *```(\w*)\n(.*?)^ *```", page.read_text(), re.M | re.S)
    ]
    blocks = [block for language, block in fences if language in ("", "bash", "sh")]
    lines = [line.split("  #")[0].strip().lstrip("$ ") for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if line and not line.startswith("#")})


def words(start: str) -> list[list[str]]:
    return [shlex.split(line) for line in shell_lines() if line.startswith(start)]


@pytest.mark.parametrize("line", words(".venv/bin/cascade-distill"), ids=" ".join)
def test_every_command_exists_with_its_options(line: list[str]) -> None:
    command, options = line[1], [word for word in line[2:] if word.startswith("-")]
    shown = RUNNER.invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert shown.exit_code == 0, shown.output
    for option in options:
        assert option in shown.output
    for config in [line[i + 1] for i, word in enumerate(line) if word in ("--config", "-c")]:
        assert (ROOT / config).exists() or "mine" in config


@pytest.mark.parametrize("target", sorted({line[1] for line in words("make")}))
def test_every_make_target_exists(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", words(".venv/bin/python -m"), ids=" ".join)
def test_every_module_shows_its_help(line: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", line[2], "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_tree_names_what_is_there() -> None:
    tree = re.search(r"```text\n(cascade/.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert tree is not None
    named = {line.split()[0].rstrip("/") for line in tree.group(1).splitlines() if line and not line.startswith(" ")}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert packages <= named


def test_local_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
