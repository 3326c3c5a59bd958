"""Callbacks see a run's records; their errors are named and end the run."""

import logging

import pytest

from bat_jax.errors import UserError
from bat_jax.training import Callback, Record, callbacks
from bat_jax.training.metrics import NoLog

CONFIG = {"seed": 0}


class Seeing(Callback):
    """Remembers its calls, and raises in one of them."""

    def __init__(self, failing=None):
        self.calls, self._failing = [], failing

    def _see(self, name, value):
        self.calls.append((name, value))
        if name == self._failing:
            raise KeyError("lost\nconnection")

    def on_start(self, config, step):
        self._see("on_start", (config, step))

    def on_record(self, record):
        self._see("on_record", record)

    def on_end(self, results):
        self._see("on_end", results)


def run(*seen, error=None):
    with callbacks.running(seen, CONFIG, 3) as ended:
        records = callbacks.Observed(NoLog(), seen)
        records.write(4, 0.5, "train", {"loss": 1.0})
        if error:
            raise error
        ended({"best": {}})


def test_a_callback_sees_the_start_the_records_and_the_results():
    seeing = Seeing()
    run(Callback(), seeing)
    record = Record(4, 0.5, "train", {"loss": 1.0})
    expected = [("on_start", (CONFIG, 3)), ("on_record", record), ("on_end", {"best": {}})]
    assert seeing.calls == expected


def test_a_callback_is_ended_when_the_run_is():
    seeing = Seeing()
    with pytest.raises(KeyboardInterrupt):
        run(seeing, error=KeyboardInterrupt())
    assert seeing.calls[-1] == ("on_end", None)


@pytest.mark.parametrize("name", ["on_start", "on_record", "on_end"])
def test_the_error_of_a_callback_is_named_in_one_line(name):
    other = Seeing()
    words = rf"^callback Seeing: {name} fails \(KeyError at test_callbacks\.py, line \d+: .*\); exp"
    with pytest.raises(UserError, match=words) as caught:
        run(other, Seeing(failing=name))
    assert "\n" not in str(caught.value)
    assert other.calls[-1][0] == "on_end"


def test_an_error_at_the_end_does_not_keep_other_callbacks_from_ending():
    other = Seeing()
    with pytest.raises(UserError, match="Seeing: on_end fails"):
        run(Seeing(failing="on_end"), other)
    assert other.calls[-1] == ("on_end", {"best": {}})


def test_an_error_at_the_end_does_not_hide_what_ended_the_run(caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(MemoryError):
        run(Seeing(failing="on_end"), error=MemoryError())
    assert "callback Seeing: on_end fails" in caplog.text


def test_what_is_no_callback_is_named():
    with pytest.raises(UserError, match=r"fit: callbacks\[1\] is a value of type function; expec"):
        callbacks.check([Callback(), lambda record: None])
    with pytest.raises(UserError, match="callbacks is a value of type Seeing; expected a list of"):
        callbacks.check(Seeing())
