"""One page per experiment; its `get_config()` returns the config."""
