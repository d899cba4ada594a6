"""Ctrl-C is told as what it is, also where compiled code puts an error of its own in its place."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest
import torch

from secateur.errors import ConfigError
from secateur_cli.interrupts import insistent_interrupts


def raised_instead(error: BaseException) -> None:
    with insistent_interrupts():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise error


class Interrupted:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> None:
        raise KeyboardInterrupt


def test_torch_puts_an_error_in_its_place() -> None:
    with pytest.raises(ValueError, match="could not determine the shape of object type"):
        torch.asarray(Interrupted())


@pytest.mark.parametrize("error", [ValueError("could not determine the shape"), ConfigError("of our own")])
def test_an_error_in_place_of_ctrl_c_is_none(error: Exception) -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        raised_instead(error)
    assert raised.value.__cause__ is error


def test_other_errors_stay_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="bad"), insistent_interrupts():
        raise ValueError("bad")
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(SystemExit):
        raised_instead(SystemExit())


def test_the_handler_of_another_is_left_in_place() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        with insistent_interrupts():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_a_thread_handles_no_signals_and_tells_its_errors() -> None:
    ended: list[str] = []

    def work() -> None:
        try:
            with insistent_interrupts():
                raise ValueError("bad")
        except ValueError as error:
            ended.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == ["bad"]
