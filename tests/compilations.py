"""Counts what JAX compiles."""

import contextlib

import jax
from jax import monitoring

_EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def heard():
    """Yields a list that grows by an entry with every program that the block compiles."""
    programs = []

    def listen(event, seconds, **about):
        if event == _EVENT:
            programs.append((about, seconds))

    monitoring.register_event_duration_secs_listener(listen)
    try:
        # Were the event renamed, the list would stay empty whatever is compiled.
        jax.jit(lambda: 0)()
        assert len(programs) == 1
        programs.clear()
        yield programs
    finally:
        monitoring.unregister_event_duration_listener(listen)
