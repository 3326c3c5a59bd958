"""The sides of a comparison: one process per side, each using the whole machine in turns.

Taking turns, all sides are affected when the machine slows down. A side is a script that calls
`serve`; the comparison calls `started` and `alternate`. Only the standard library is imported,
because the PyTorch side has no JAX.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Answer = dict[str, Any]


class Side:
    """A process that answers lines with lines.

    Attributes:
      facts: its first answer, when it was ready.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        """Starts the process and waits until it is ready."""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **environment},
            text=True,
        )
        self.facts = self._answer()

    def ask(self, question: object) -> Answer:
        """Returns the answer to a question."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with status {self._process.wait()}")
        return json.loads(line)


@contextlib.contextmanager
def started(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, Side]]:
    """Yields the sides, started one after another because they may compile first."""
    sides: dict[str, Side] = {}
    try:
        for name, command in commands.items():
            sides[name] = Side(command, environment or {})
        yield sides
    finally:
        for side in sides.values():
            side.end()


def alternate(
    sides: Mapping[str, Side], question: object, *, turns: int
) -> dict[str, list[Answer]]:
    """Asks all sides the same question, one after another, `turns` times."""
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            answers[name].append(side.ask(question))
    return answers


def serve(facts: Answer, answer: Callable[[Any], Answer]) -> None:
    """Reports that this side is ready, then answers questions until the other end closes."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def spread(seconds: Sequence[float]) -> str:
    """Returns the median in milliseconds, with the smallest, the largest and the count."""
    low, middle, high = (1e3 * f(seconds) for f in (min, statistics.median, max))
    return f"{middle:,.0f} ms ({low:,.0f} to {high:,.0f}, n = {len(seconds)})"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |", flush=True)
