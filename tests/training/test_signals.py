from __future__ import annotations

import signal
import threading

import pytest

from merkhet.training.signals import StopSignals


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_the_first_signal_is_noted_and_the_second_raises(
    number: signal.Signals, kind: type[BaseException]
) -> None:
    before = handlers()
    with pytest.raises(kind), StopSignals() as signals:
        assert signals.received is None
        signal.raise_signal(number)
        assert signals.received is number
        assert isinstance(signals.stopped("here"), kind)
        assert handlers() != before
        signal.raise_signal(number)
        raise AssertionError("the second signal did not raise")
    assert handlers() == before


def test_sigterm_exits_with_the_status_of_a_terminated_program() -> None:
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGTERM)
    stopped = signals.stopped("here")
    assert isinstance(stopped, SystemExit)
    assert stopped.code == 143


def test_handlers_are_put_back_after_an_error() -> None:
    before = handlers()
    with pytest.raises(RuntimeError), StopSignals():
        raise RuntimeError
    assert handlers() == before


def test_other_threads_install_nothing() -> None:
    before, inside = handlers(), []

    def work() -> None:
        with StopSignals():
            inside.append(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
