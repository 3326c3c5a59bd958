import pickle

import pytest

from bat_jax.errors import UserError


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a/b: is empty; expected images", "a/b: is empty; expected images"),
        ("a\nb: is empty", "a b: is empty"),
        ("first line:\r\n    second line", "first line: second line"),
        ("a\x85b\u2028c\u2029d\x0be\x0cf\x1cg", "a b c d e f g"),
        ("\x1b[31mred\x00\ttab", "\\x1b[31mred\\x00\\ttab"),
        ("caf\udce9", "caf\\udce9"),
        ("naïve 図  two spaces", "naïve 図  two spaces"),
        (f"{'a' * 498}: missing", f"{'a' * 498}: missing"),
        (f"at {'a' * 5000}{'b' * 99}: missing", f"at {'a' * 100}...{'b' * 99}: missing"),
        ("\0" * 125, "\\x00" * 25 + "..." + "\\x00" * 25),
    ],
)
def test_a_message_is_one_printable_line(message, line):
    error = UserError(message)
    assert str(error) == line
    assert len(str(error).splitlines()) == 1
    str(error).encode()


def test_it_survives_pickling():
    assert str(pickle.loads(pickle.dumps(UserError("a\nb")))) == "a b"
