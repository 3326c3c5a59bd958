"""Commands of modules end with one line on a wrong argument."""

import pytest

from bat_jax.data.audit.__main__ import main as audit
from bat_jax.data.corruptions.__main__ import main as corruptions
from bat_jax.interop.__main__ import main as interop
from bat_jax.memorization.export import main as export
from bat_jax.report.__main__ import main as report
from bat_jax.report.curve import main as curve
from bat_jax.report.transfer import main as transfer
from bat_jax.report.union import main as union

COMMANDS = {
    "bat_jax.data.audit": audit,
    "bat_jax.data.corruptions": corruptions,
    "bat_jax.interop": interop,
    "bat_jax.memorization.export": export,
    "bat_jax.report": report,
    "bat_jax.report.curve": curve,
    "bat_jax.report.transfer": transfer,
    "bat_jax.report.union": union,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_argument_is_one_line_and_status_2(name, capsys):
    with pytest.raises(SystemExit) as ended:
        COMMANDS[name](["--no-such-argument"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: ")
    assert line.endswith("; --help lists the arguments")
