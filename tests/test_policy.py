"""The policy file: values only, strict keys."""

import pytest

from cascade.errors import ConfigError
from promotion.policy import GatePolicy


def test_reads_values_and_keeps_defaults(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text("quality_margin: 0.01\nheldout_decisions: 4\n")
    policy = GatePolicy.from_yaml(path)
    assert (policy.quality_margin, policy.min_pairs) == (0.01, 300)
    assert policy.alpha_at(2) == pytest.approx(policy.alpha_at(1) / 4)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("quality_margn: 0.01", "quality_margn"),
        ("alpha: 2", "alpha"),
        ("alpha: [", "gate policy"),
        ("- 1", "gate"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, text, named):
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named) as error:
        GatePolicy.from_yaml(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        GatePolicy.from_yaml(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("declared", [1, 2, 12, None])
def test_the_levels_of_all_decisions_add_up_to_alpha(declared):
    policy = GatePolicy(heldout_decisions=declared)
    spent = [policy.alpha_at(k) for k in range(1, (declared or 200_000) + 1)]
    assert sum(spent) == pytest.approx(0.05, abs=1e-6)
    assert spent == sorted(spent, reverse=True)
