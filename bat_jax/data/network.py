"""Checks within seconds whether servers respond.

TFDS retries downloads for minutes without a network, so its servers are queried first.
"""

import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable


def unreachable(urls: Iterable[str], *, seconds: float = 8.0) -> str | None:
    """Returns which server does not respond and why, or None if all respond.

    Requests one URL of every host, all concurrently, through the environment's proxies. Any
    response counts, even an error status.

    Args:
      urls: the URLs to download later; only http and https are checked.
      seconds: the time for all requests. Socket time-outs do not bound name resolution, so threads
        that are still waiting then are abandoned.
    """
    hosts: dict[str, str] = {}
    for url in urls:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in ("http", "https"):
            hosts.setdefault(parts.netloc, url)
    answers: queue.Queue[tuple[str, str | None]] = queue.Queue()
    for host, url in hosts.items():
        threading.Thread(target=_ask, args=(host, url, seconds, answers), daemon=True).start()
    deadline = time.monotonic() + seconds
    waiting = set(hosts)
    while waiting:
        try:
            host, problem = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return f"{min(waiting)} did not answer within {seconds:g} s"
        if problem is not None:
            return f"{host} cannot be reached ({problem})"
        waiting.discard(host)
    return None


def _ask(
    host: str, url: str, seconds: float, answers: "queue.Queue[tuple[str, str | None]]"
) -> None:
    request = urllib.request.Request(url, method="HEAD")
    problem = None
    try:
        with urllib.request.urlopen(request, timeout=seconds):
            pass
    except urllib.error.HTTPError as answer:
        answer.close()
    except Exception as error:  # There is no response; the caller reports the reason.
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        problem = str(reason) or type(reason).__name__
    answers.put((host, problem))
