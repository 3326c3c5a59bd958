"""The processes of tests end with the test."""

import subprocess
import sys

import pytest

from tests.jobs.processes import finish


def test_processes_that_do_not_end_are_killed_and_reaped():
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    processes = [
        subprocess.Popen(sleeping, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    with pytest.raises(subprocess.TimeoutExpired):
        finish(processes, timeout=0.1)
    assert [process.returncode for process in processes] == [-9, -9]
    assert all(process.stdout.closed and process.stderr.closed for process in processes)
