"""Damage of any kind to any file of a run gives one line with the file and the place."""

import io
import json
import logging
import os

import numpy as np
import pytest

from bat_jax.errors import UserError
from bat_jax.evaluation import runs
from bat_jax.evaluation.records import Accuracy
from bat_jax.findings import results as findings_results
from bat_jax.findings.differences import adjust
from bat_jax.jobs.finished import finished_results
from bat_jax.memorization import results as memorization_results
from bat_jax.report.__main__ import main
from bat_jax.training.metrics import MetricsLog
from tests.findings.test_claims import summary

VERDICTS = np.array([True, False, True, True])
ACCURACY = Accuracy.of(VERDICTS).to_json()
CONFIG = {
    "job": "train",
    "seed": 0,
    "data": {"name": "digits", "subset": 0, "validation": 32},
    "model": {"name": "small_cnn", "width": None},
    "objective": {"name": "pgd_at"},
    "attack": {"norm": "linf", "epsilon": 0.1, "step_size": 0.05, "num_steps": 2},
    "train": {"steps": None, "epochs": 2, "batch_size": 64},
    "memorization": {"estimates": None, "threshold": 0.15},
}
ABOUT = {
    "config": CONFIG,
    "data": {"train": "a", "test": "b"},
    "versions": {"jax": "1", "bat_jax": None},
    "git": None,
    "devices": ["cpu"],
}
STATE = {"step": 3, "test": {"clean": ACCURACY, "pgd2": ACCURACY, "typical": {"clean": ACCURACY}}}
SAMPLE = {
    "attacks": ["fab-t"],
    **{"images": 3, "drawn": 2, "broken": 1},
    "interval": [0.25, 0.5],
}
RESULTS = {
    "best": {**STATE, "broken_by": {"apgd-ce": 1}, "sample": SAMPLE},
    "last": STATE,
    "seconds": 1.5,
    "attack_seconds": {"best": {"apgd-ce": 1.0}},
}
RECORDS = [
    {"step": step, "epoch": step / 2, "split": split, "loss": 1.0, "pgd2": 0.5}
    for step in (1, 2)
    for split in ("train", "validation")
]
COUNTS = {
    **{"examples": 9, "atypical": 2, "typical": 7, "unknown": 0},
    "atypical_by_class": {"a": {"atypical": 2, "examples": 9}},
}
MEMORIZATION = {
    "members": 8,
    "threshold": 0.15,
    "train": COUNTS,
    "test": COUNTS,
    "sweep": [{"threshold": 0.1, "train_atypical": 2, "test_atypical": 1, "test_by_chance": 0}],
    "split_half": {"rank_correlation": 0.5, "variance_of_z": 1.0, "n": 9},
    "split_half_by_members": [
        {"members": 8, "rank_correlation": 0.5, "n": 9, "interval": [0.4, 0.6]}
    ],
    "mean_standard_error": 0.1,
}


def findings():
    found = summary()
    adjust(found["methods"])
    value = found["methods"][0]["clean"]
    parts = {"best": "pgd20", "last": "pgd20"}
    return {
        **found,
        "attacks": {**found["attacks"], "variants": parts},
        "at_chance": [],
        "curves": {
            "pgd_at": {
                "test_typical": {"epochs": [1.0], "images": 4, "clean": [value], "pgd10": [value]}
            }
        },
        "accuracies": {"bat": {state: {"all": {"clean": value}} for state in ("best", "last")}},
        "variants": [],
        "claims": [dict.fromkeys(("name", "statement", "rule", "verdict", "numbers"), "text")],
        "seconds": 1.0,
    }


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


EXAMPLES = {
    "ids": np.arange(4),
    "labels": np.zeros(4, np.int32),
    **{f"{state}_{key}": VERDICTS for state in ("best", "last") for key in ("clean", "pgd2")},
}


def lines(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(ABOUT))
    (folder / "results.json").write_text(json.dumps(RESULTS))
    (folder / "metrics.jsonl").write_bytes(lines(RECORDS))
    (folder / "examples.npz").write_bytes(npz(**EXAMPLES))
    return folder


# Each reader with a valid file of its own.
READERS = {
    "config": (runs.read_about, ABOUT),
    "results": (runs.read_results, RESULTS),
    "memorization": (memorization_results.read_results, MEMORIZATION),
    "findings": (findings_results.read_results, findings()),
}

BYTES = {
    "empty": b"",
    "blank": b" \n",
    "cut": None,
    "null": b"null",
    "number": b"3",
    "text": b'"x"',
    "list": b"[]",
    "object": b"{}",
    "deep list": b"[" * 10_000,
    "deep whole": b"[" * 300 + b"]" * 300,
    "deep object": b'{"config":' * 10_000,
    "not a number": b'{"seconds": NaN}',
    "twice": b'{"best": 1, "best": 2}',
    "digits": b'{"seconds": ' + b"9" * 10_000 + b"}",
    "binary": b"\x00\xff\xfe",
}


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("damage", BYTES)
@pytest.mark.parametrize("kind", READERS)
def test_an_unexpected_file_is_refused_in_one_line(kind, damage, tmp_path):
    read, right = READERS[kind]
    whole = json.dumps(right).encode()
    name = "config.json" if kind == "config" else "results.json"
    path = tmp_path / name
    path.write_bytes(whole)
    asked = tmp_path if kind == "config" else path
    assert read(asked) == right
    path.write_bytes(whole[: len(whole) // 2] if BYTES[damage] is None else BYTES[damage])
    with pytest.raises(UserError, match=f"{name}: ") as error:
        read(asked)
    one_line(error)


WRONG = (None, True, -1e300, 1e300, "x", [], {}, float("inf"), 10**400, [[]], {"a": {}})


def places(value, path=()):
    """Yields the path of every value in a file; a list's first value stands for all."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    if isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def changed(value, path, wrong):
    if not path:
        return wrong
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], wrong)
    return copy


@pytest.mark.parametrize("kind", READERS)
def test_a_wrong_value_anywhere_is_either_harmless_or_named(kind):
    shapes = {
        "config": runs.ABOUT,
        "results": runs.RESULTS,
        "memorization": memorization_results._RESULTS,
        "findings": findings_results._RESULTS,
    }
    _, right = READERS[kind]
    refused = 0
    for number, path in enumerate(places(right)):
        # A third of them at each place, in turn.
        for wrong in WRONG[number % 3 :: 3]:
            text = json.dumps(changed(right, path, wrong)).replace("Infinity", "1e999").encode()
            place = runs.Place("file")
            try:
                runs.schema.parse(text, shapes[kind], place)
            except UserError as error:
                message = str(error)
                assert message.startswith("file: "), (path, wrong, message)
                assert "expected" in message
                assert len(message) < 300
                refused += 1
    assert refused > len(list(places(right))) or kind == "config"


def test_the_message_names_file_place_and_what_was_found(run):
    results = changed(RESULTS, ("best", "test", "clean", "accuracy"), "x")
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError) as error:
        runs.read(run)
    assert one_line(error) == (
        f"{run}/results.json: best.test.clean.accuracy is 'x'; expected a number from 0 to 1"
    )


@pytest.mark.parametrize("path", [p for p in places(CONFIG) if p])
def test_a_run_without_a_field_that_a_report_needs_is_refused_by_name(run, path):
    about = changed(ABOUT, ("config", *path), {"nothing": 0})
    (run / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=f"config.json: .*{path[-1] if len(path) > 1 else ''}"):
        runs.read(run)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"3",
        b"null",
        b"[]",
        b'{"step": 1}',
        b'{"step": null, "epoch": 1, "split": "train"}',
        b'{"step": 1, "epoch": 1, "split": "train", "loss": "x"}',
        b'{"step": 1, "epoch": 1, "split": "train", "loss": NaN}',
        b'{"step": 1, "epoch": 1, "split": "train", "loss": 1e999}',
        b'{"step": 1, "epoch": 1, "loss": 1}',
        b'{"step": 1, "step": 1, "epoch": 1, "split": "train"}',
        b'{"step": 1, "epo',
        b"\x00\x00",
        b"[" * 10_000,
    ],
)
def test_a_damaged_record_is_named_and_a_truncated_last_one_skipped(run, line, caplog):
    path = run / "metrics.jsonl"
    whole = lines(RECORDS)
    # A killed writer leaves a part of a line, without its end.
    path.write_bytes(whole + line)
    assert [json.loads(kept) for kept, _ in runs.read_records(path)] == RECORDS
    damaged = line + b"\n" + whole
    path.write_bytes(damaged)
    if line:
        with pytest.raises(UserError, match=r"metrics.jsonl: line 1: ") as error:
            runs.read(run)
        one_line(error)
    # A resumed training keeps the damaged file, and every whole record.
    log = MetricsLog(run, resumed_step=1)
    log.close()
    assert path.read_bytes() == lines(RECORDS[:2])
    if line:
        assert (run / "metrics.jsonl.damaged").read_bytes() == damaged
        assert "kept as metrics.jsonl.damaged" in caplog.text
    else:
        assert not (run / "metrics.jsonl.damaged").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        npz(**EXAMPLES)[:-30],
        npz(**EXAMPLES)[:200],
        npz(ids=np.arange(4)),
        npz(**{**EXAMPLES, "ids": np.arange(5)}),
        npz(**{**EXAMPLES, "ids": np.array(list("abcd"))}),
        npz(**{**EXAMPLES, "labels": np.zeros((4, 1), int)}),
        npz(**{**EXAMPLES, "last_pgd2": np.ones(4)}),
        npz(**{**EXAMPLES, "last_pgd2": np.array([{}, 1, 2, 3], object)}),
    ],
)
def test_damaged_verdicts_are_refused_in_one_line(run, content):
    (run / "examples.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"examples.npz: ") as error:
        runs.read(run)
    one_line(error)


@pytest.mark.parametrize("name", ["config.json", "results.json", "metrics.jsonl", "examples.npz"])
def test_a_folder_or_a_fifo_in_place_of_a_file_is_refused(run, name):
    (run / name).unlink()
    (run / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: is not a regular file"):
        runs.read(run)
    (run / name).rmdir()
    os.mkfifo(run / name)
    with pytest.raises(UserError, match=f"{name}: is not a regular file"):
        runs.read(run)


@pytest.mark.parametrize("job", ["train", "memorization", "findings", "other"])
def test_the_command_ends_with_one_line_for_results_of_another_job(run, job, capsys):
    (run / "config.json").write_text(json.dumps(changed(ABOUT, ("config", "job"), job)))
    wrong = RESULTS if job in ("memorization", "findings") else MEMORIZATION
    (run / "results.json").write_text(json.dumps(wrong))
    assert main([str(run)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "expected" in line


@pytest.mark.parametrize("damage", BYTES)
def test_damaged_results_are_set_aside_so_that_a_run_makes_them_anew(run, damage, caplog):
    path = run / "results.json"
    assert finished_results(path, runs.read_results) == RESULTS
    content = json.dumps(RESULTS).encode()
    content = content[: len(content) // 2] if BYTES[damage] is None else BYTES[damage]
    for name in ("results.json.damaged", "results.json.damaged-2"):
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            assert finished_results(path, runs.read_results) is None
        assert (run / name).read_bytes() == content
        assert f"kept as {name}" in caplog.text
    assert finished_results(path, runs.read_results) is None
