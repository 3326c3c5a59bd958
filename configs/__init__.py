"""One page an experiment; `get_config()` returns it."""
