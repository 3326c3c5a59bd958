"""A log continues after the step that a run resumes from."""

import json

from bat_jax.training.metrics import MetricsLog


def test_a_resumed_log_drops_later_and_broken_records(tmp_path):
    log = MetricsLog(tmp_path, resumed_step=0)
    for step in (1, 2, 3):
        log.write(step, step / 10, "train", {"loss": 1.0 / step, "bad": float("nan")})
    log.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 2, "epo')
    log = MetricsLog(tmp_path, resumed_step=2)
    log.write(3, 0.3, "train", {"loss": 9.0})
    log.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in records] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert "bad" not in records[0]
