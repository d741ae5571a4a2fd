from __future__ import annotations

import pytest
from labworld import ROOT

from cascade.errors import InputError, StageError
from flows.commands.train import sweep


@pytest.mark.parametrize("wrong", [{"rates": "fast,slow"}, {"ranks": "8.5"}, {"rates": "0,1e-3"}])
def test_numbers_that_are_none_are_named(wrong):
    values = {"rates": "1e-4", "ranks": "8"} | wrong
    with pytest.raises(InputError, match=next(iter(wrong.values()))):
        sweep("run", ROOT / "configs/demo.yaml", **values)


def test_an_unknown_run_is_named():
    with pytest.raises(StageError, match="no-such-run"):
        sweep("no-such-run", ROOT / "configs/demo.yaml")
