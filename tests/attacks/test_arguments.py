"""Arguments of the wrong kind are reported by name, in one line.

The calls are made in a process of their own, without the tests' type checker, which refuses most of
them with its own messages.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "minimal_norms(epsilons=8 / 255)": "epsilons: 0.03137254901960784; expected several radii",
    "minimal_norms(epsilons=['a'])": "epsilon: 'a'; expected a number above 0, such as 8 / 255",
    "found.robust('0.1')": "epsilon: '0.1'; expected 0 to 0.1, the largest radius",
    "autoattack(epsilon='8/255')": "epsilon: '8/255'; expected a number above 0, such as 8 / 255",
    "autoattack(epsilon=None)": "epsilon: None; expected a number above 0, such as 8 / 255",
    "autoattack(epsilon=True)": "epsilon: True; expected a number above 0, such as 8 / 255",
    "autoattack(tolerance='0.1')": "tolerance: '0.1'; expected a number above 0 and below 1",
    "autoattack(confidence='95%')": "confidence: '95%'; expected a number above 0 and below 1",
    "autoattack(eot=2.5)": "eot: 2.5; expected a whole number, 1 or more",
    "autoattack(version='rand', draws=2.5)": "draws: 2.5; expected a whole number, 1 or more",
    "autoattack(restarts={'apgd-ce': 2.5})": "restarts of apgd-ce: 2.5; expected a whole number",
    "autoattack(restarts=2)": "restarts: 2; expected a number by attack, such as {'fab': 5}",
    "autoattack(batch_size=2.5)": "batch_size: 2.5; expected a whole number, 1 or more",
    "autoattack(devices=2)": "devices: 2; expected one or more of jax.devices()",
    "autoattack(devices=['cpu'])": "devices: ['cpu']; expected one or more of jax.devices()",
    "minimal_norms(epsilons=[0.1], devices=[])": "devices: []; expected one or more of jax.devi",
    "autoattack(attacks='square')": "attacks: 'square'; expected several of apgd-ce, apgd-dlr",
    "autoattack(attacks=3)": "attacks: 3; expected several of apgd-ce, apgd-dlr",
    "autoattack(attacks=[3])": "attacks: 3; expected some of apgd-ce, apgd-dlr",
    "autoattack(loop='foo')": "loop: 'foo'; expected host or device, or None",
    "autoattack(target_classes='3')": "target_classes: '3'; expected some of 0 to 3, each once",
    "union(threats=0.1)": "threats: 0.1; expected several, such as",
    "square(p=-0.1)": "p: -0.1; expected a number above 0 and at most 1, such as 0.8",
    "square(p=math.nan)": "p: nan; expected a number above 0 and at most 1, such as 0.8",
    "square(p='0.8')": "p: '0.8'; expected a number above 0 and at most 1, such as 0.8",
    "apgd(rho=math.nan)": "rho: nan; expected a number of 0 to 1, such as 0.75",
    "apgd_targeted(rho='1')": "rho: '1'; expected a number of 0 to 1, such as 0.75",
    "pgd(epsilon='8/255')": "epsilon: '8/255'; expected 0 or a number above 0, such as 8 / 255",
    "pgd(step_size='0.1')": "step_size: '0.1'; expected 0 or a number above 0",
    "pgd(images[0], labels[0])": "images: shape (4, 4, 1), and labels: (); expected (im",
    "pgd(images, 3)": "images: shape (2, 4, 4, 1), and labels: (); expected (images",
    "pgd(images[:0], labels[:0])": "images: none; expected at least one",
    "pgd(num_steps=2.5)": "num_steps: 2.5; expected a whole number, 0 or more",
    "PgdSettings(epsilon=[0.1])": "epsilon: [0.1]; expected 0 or a number above 0",
}
_SETUP = """
import json, math, sys
import jax.numpy as jnp, numpy as np
import jax
from bat_jax import attacks
from bat_jax.attacks import MinimalNorms
from bat_jax.errors import UserError

images, labels = np.full((2, 4, 4, 1), 0.5, np.float32), np.zeros(2, np.int32)

def of(name, **defaults):
    def call(images=images, labels=labels, **options):
        arguments = {"epsilon": 0.1, **defaults, **options}
        if name in ("minimal_norms", "union"):
            del arguments["epsilon"]
        attack, random = getattr(attacks, name), options.keys() & {"eot", "draws"}
        logits_fn = (lambda x, key: x[:, 0, :, 0]) if random else (lambda x: x[:, 0, :, 0])
        return attack(logits_fn, images, labels, jax.random.key(0), **arguments)
    return call

scope = {name: of(name) for name in ("minimal_norms", "autoattack", "union", "square", "apgd")}
scope |= {"apgd_targeted": of("apgd_targeted"), "pgd": of("pgd", step_size=0.1, num_steps=1)}
scope["PgdSettings"] = lambda **options: attacks.PgdSettings(
    **{"epsilon": 0.1, "step_size": 0.1, "num_steps": 1, **options}
)
scope["found"] = MinimalNorms((0.1,), *[np.zeros(2)] * 3, np.ones(2, bool), (), None)
scope |= {"math": math, "images": images, "labels": labels}

def message(call):
    try:
        eval(call, scope)
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__} instead of a UserError: {error}"
    return "no error"

print(json.dumps({call: message(call) for call in json.loads(sys.argv[1])}))
"""


@pytest.fixture(scope="module")
def messages():
    """Returns the message of every call."""
    ran = subprocess.run(
        [sys.executable, "-c", _SETUP, json.dumps(list(CASES))],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("call", CASES)
def test_an_argument_of_the_wrong_kind_is_reported_by_name(messages, call):
    assert messages[call].startswith(CASES[call])
    assert "\n" not in messages[call]
