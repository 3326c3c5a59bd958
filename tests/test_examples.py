"""The examples run, and show what they say."""

import jax

from examples import outside_models


def test_outside_models_are_attacked_by_the_same_call(capsys):
    # Outside models and Adam promote as JAX does by default.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        rows = outside_models.main(num_images=24, num_steps=40, attacks=("apgd-ce",))
    for row in rows:
        assert row.images == 24
        assert row.clean > 16
        assert row.clean >= row.after["apgd-ce"]
    plain, robust = rows
    assert robust.after["apgd-ce"] > plain.after["apgd-ce"]
    assert len(capsys.readouterr().out.splitlines()) == 4
