import numpy as np
import pytest

from bat_jax import parallel
from bat_jax.data import Dataset, Split
from bat_jax.data.device import to_devices
from bat_jax.errors import UserError


def split(*ids):
    count = len(ids)
    images = np.zeros((count, 2, 2, 1), np.uint8)
    return Split(images, np.zeros(count, np.int32), np.array(ids, np.int64))


def test_ids_up_to_those_that_a_device_can_hold_are_taken():
    whole = split(0, 2**31 - 1)
    dataset = Dataset("made", whole, whole, ("a",))
    on_devices = to_devices(dataset.train, parallel.make_mesh(1))
    assert np.asarray(on_devices.ids).tolist() == [0, 2**31 - 1]


@pytest.mark.parametrize("number", [2**31, 2**32 + 5, -(2**31) - 1])
def test_ids_that_a_device_cannot_hold_are_refused(number):
    problem = rf"the example in row 1 has id {number}; expected -2147483648 to 2147483647"
    with pytest.raises(UserError, match=f"made train: {problem}"):
        Dataset("made", split(0, number), split(0), ("a",))
    with pytest.raises(UserError, match=problem):
        to_devices(split(0, number), parallel.make_mesh(1))
