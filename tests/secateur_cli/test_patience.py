"""What takes too long ends, whatever it does with the alarm, and alarms of others go on."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from secateur_cli.doctor.patience import patience


def test_patience_leaves_alarms_as_they_were() -> None:
    handler, (left, again) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    with patience(2000.0):
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 1000
    assert signal.getsignal(signal.SIGALRM) == handler
    assert signal.getitimer(signal.ITIMER_REAL) == (pytest.approx(left, abs=1), again)


def test_a_timeout_that_is_swallowed_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur_cli.doctor.patience.AGAIN", 0.02)
    swallowed = 0

    def deaf() -> None:
        nonlocal swallowed
        with contextlib.suppress(TimeoutError):
            time.sleep(10)
        swallowed += 1
        time.sleep(10)

    with pytest.raises(TimeoutError), patience(0.02):
        deaf()
    assert swallowed == 1
