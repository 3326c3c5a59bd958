import http.server
import socket
import threading
import time

import pytest

from bat_jax.data import network

unreachable = network.unreachable  # before the fixture of all tests here replaces it


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server():
    """Serves 404 for every file on this machine; returns the URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


class Silent(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(404)

    def log_message(self, *args):
        pass


def test_a_server_that_answers_with_an_error_is_reachable(server):
    assert unreachable([f"{server}/a.zip", f"{server}/b.zip"], seconds=5.0) is None


def test_a_closed_port_is_reported_with_the_host(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
        problem = unreachable([server, f"http://{host}/a.zip"], seconds=5.0)
    assert problem.startswith(f"{host} cannot be reached")


def test_a_silent_server_times_out():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        host = f"127.0.0.1:{mute.getsockname()[1]}"
        start = time.monotonic()
        problem = unreachable([f"http://{host}/"], seconds=0.3)
    assert host in problem
    assert time.monotonic() - start < 2


def test_slow_name_resolution_times_out(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: over.wait(30) and [])
    start = time.monotonic()
    problem = unreachable(["http://slow.example/a.zip"], seconds=0.3)
    over.set()
    assert problem == "slow.example did not answer within 0.3 s"
    assert time.monotonic() - start < 2


def test_nothing_to_download_is_always_reachable():
    assert unreachable([]) is None
    assert unreachable(["gs://bucket/file"]) is None
