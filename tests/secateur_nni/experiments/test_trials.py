"""What a trial reports: its result, or what its work has raised, with the name of its candidate."""

from __future__ import annotations

from typing import Any

import nni
import pytest

from secateur_nni.experiments.trials import WORST, run_trial


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The final results that NNI gets of a trial whose parameters are those of candidate 7."""
    results: list[dict[str, Any]] = []
    monkeypatch.setattr(nni, "get_next_parameter", lambda: {"candidate": 7, "width": 3})
    monkeypatch.setattr(nni, "report_final_result", results.append)
    return results


def test_result_has_the_name_of_its_candidate(reported: list[dict[str, Any]]) -> None:
    assert run_trial(lambda parameters, _: {"default": parameters["width"] / 4}) == 0
    assert reported == [{"default": 0.75, "candidate": 7}]


@pytest.mark.parametrize(
    ("error", "told"), [(ValueError("no such layer"), "ValueError: no such layer"), (SystemExit(0), "SystemExit: 0")]
)
def test_whatever_is_raised_is_the_result(reported: list[dict[str, Any]], error: BaseException, told: str) -> None:
    def work(*_: Any) -> dict[str, Any]:
        raise error

    with pytest.raises(type(error)):
        run_trial(work)
    assert reported == [{"default": WORST, "error": told, "candidate": 7}]
