"""The inputs that the command refuses, with its messages, timing and status."""

import errno
import logging
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import bat_jax
from bat_jax import arguments, cli, environment, overrides
from bat_jax import config as configs
from bat_jax.errors import UserError
from bat_jax.overrides import Override
from bat_jax.runtime.quiet import quiet
from tests.command import CONFIGS, launch, refused
from tests.test_config import CONFIGS as KINDS
from tests.test_config import WRONG, all_fields

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Every command starts in an empty folder, which a refused one leaves empty."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.train.epocs=3"], "config.train has no field 'epocs'; did you mean config.trai"),
        (["--config.train.zzz=3"], "config.train has no field 'zzz'; it has accumulation, batch_"),
        (["--config.train.epochs.x=3"], "config.train.epochs is a field; expected a section"),
        (["--config.evaluation.losses[0]=x"], "no field 'losses[0]'; did you mean config.evaluat"),
        (["--config.train.epochs=many"], "config.train.epochs is 'many'; expected a whole number"),
        (["--config.train.epochs=" + "9" * 5000], "expected a whole number"),
        (["--config.attack.epsilon=8"], "config.attack.epsilon is 8.0; expected at most 1"),
        (["--config.attack.epsilon=8/0"], "is '8/0'; expected a number such as 0.1 or 8/255"),
        (["--config.attack.epsilon=1e999"], "config.attack.epsilon is inf; expected a finite numb"),
        (["--noconfig.data.flip=true"], "--noconfig.data.flip=true: has a value; expected --nocon"),
        (
            ["--config=~nobody-by-this-name/page.py"],
            "--config is '~nobody-by-this-name/page.py'; C",
        ),
        (["--config.train.optimizer.second_momentum=0.9"], "with sgd, which does not read it"),
        (["--config.data.flip=maybe"], "config.data.flip is 'maybe'; expected true or false"),
        (["--config.train.epochs"], "--config.train.epochs has no value"),
        (["--config.train.optimizer={}"], "config.train.optimizer.learning_rate is missing"),
        (["--config.objective={'name':'bat'}"], "config.objective.awp is missing"),
        (["--config.objective=bat"], "config.objective is 'bat'; expected a section"),
        (
            ["--config.objective.name=madry"],
            "is 'madry'; expected one of bat, gairat, grad_align, mart, pgd_at",
        ),
        (["--config.model.mean=(1e999,)"], "config.model.mean is (inf,); expected every"),
        (["--config.train.schedule.boundaries=(1.0,"], "expected a tuple such as (1.0, 2.0)"),
        (["--config.job=dance"], "config.job is 'dance'; expected one of train, memorization"),
        (["dance"], "unknown argument 'dance'; expected flags such as --config="),
        (["--wrokdir=x"], "Unknown command line flag 'wrokdir'. Did you mean: workdir ?"),
        (["--workdir="], "--workdir is ''; expected text that is not empty"),
        (["--workdir=a\0b"], r"--workdir is 'a\x00b'; expected text of printable characters"),
        (["--workdir=a\nb"], r"--workdir is 'a\nb'; expected text of printable characters"),
        (["--workdir=" + "x" * 5000], "...; expected at most 4095 bytes"),
        (["--workdir=" + "x" * 300], "expected at most 255 bytes between slashes"),
        (["--workdir=s3://bucket/run"], "s3://bucket/run: expected a folder on a disk, or gs://"),
        (["--aot_topology="], "--aot_topology is ''; expected text that is not empty"),
        (["--num_processes=two"], "--num_processes is 'two'; expected a whole number"),
        (["--num_processes=0"], "--num_processes is '0'; expected 1 or more"),
        (["--process_id=" + "9" * 30], "expected a whole number"),
        (["--flagfile=/nowhere"], "/nowhere"),
    ],
)
def test_a_wrong_flag_or_field_gives_one_line_and_status_2(tmp_path, flags, words):
    line = refused(f"--config={CONFIGS}/digits_bat.py", *flags)
    assert words in line
    assert len(line) < 400
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (None, "no such file; expected a page"),
        ("raise ValueError('of\\nsome kind')", "line 1: ValueError: of some kind"),
        ("\nimport sys\nsys.exit(3)", "line 3: SystemExit: 3"),
        ("import no_such_package", "line 1: ModuleNotFoundError: No module named"),
        ("def get_config(:", "line 1: invalid syntax"),
        ("x = 1", "has no function get_config"),
        ("def get_config(): return None", "get_config returned a value of type NoneType"),
        ("def get_config(): return {}", "get_config returned a value of type dict"),
        ("def get_config(x): return x", "TypeError: get_config() missing 1 required positional"),
        (
            "from bat_jax.config import default\n"
            "def get_config():\n"
            "    config = default()\n"
            "    config.train.epocs = 3\n",
            "line 4: there is no field epocs; did you mean epochs?",
        ),
        (
            "from bat_jax.config import default\ndef get_config():\n    return default().rain\n",
            "line 3: there is no field rain; did you mean train?",
        ),
        (
            "from bat_jax.config import default\n"
            "def get_config():\n"
            "    default().attack.epsilon = '8/255'\n",
            "line 3: the field epsilon is 8/255, of type str; expected one of type float",
        ),
        ("def get_config(): return {}['x']", "line 1: KeyError: 'x'"),
        ("from ml_collections import ConfigDict as C\nget_config = C", "config.job is missing"),
        (
            "from bat_jax.config import default\n"
            "def get_config():\n"
            "    config = default()\n"
            "    config.train.schedule.boundaries = ('a',)\n"
            "    return config\n",
            "config.train.schedule.boundaries is ('a',); expected every value in the tuple to be a",
        ),
    ],
)
def test_a_page_that_returns_no_config_is_named_with_the_line(tmp_path, page, words):
    path = tmp_path / "page.py"
    if page is not None:
        path.write_text(page)
    assert words in refused(f"--config={path}")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config=configs/none.py", "--config configs/none.py: no such file"),
        ("--config=no_such_page", "no_such_page"),
        ("--config=", "--config is ''"),
        (f"--config={ROOT}/README.md", "README.md: is not a page; expected a Python file"),
        (f"--config={CONFIGS}/digits_bat.py:x", "takes no argument 'x'"),
        (f"--config={CONFIGS}", ": no such file; expected a page"),
        ("--config=" + "x" * 5000 + ".py", "expected at most 4095 bytes"),
        ("--config=a\nb.py", r"--config is 'a\nb.py'"),
        ("--dry_run", "--config is not set; expected a page"),
    ],
)
def test_a_file_that_is_not_a_page_gives_one_line(flag, words):
    assert words in refused(flag)


def test_a_page_is_found_by_name_and_fields_are_set_in_every_form(tmp_path):
    (tmp_path / "flags.txt").write_text("--config.seed=3\n")
    found = arguments.parse(
        [
            "--config",
            "digits_bat",
            "--config.train.epochs",
            "3",
            "--config.attack.epsilon=8/255",
            "--config.objective.gairat.lam",
            "-2.5",
            "--config.data.flip",
            "--noconfig.attack.random_start",
            "--config.model.width=0x10",
            "--config.evaluation.losses=margin",
            "--config.evaluation.attacks=square",
            "--config.evaluation.attacks=fab-t",
            "--config.train.schedule.boundaries=[1, 2.5]",
            "--config.model.mean=0.5",
            "--config.data.path=a=b",
            "--workdir",
            "runs/x",
            "-dry_run",
            "--flagfile=flags.txt",
        ]
    )
    config = found.config
    assert (found.name, found.workdir, found.dry_run) == ("digits_bat", "runs/x", True)
    assert (config.train.epochs, config.attack.epsilon, config.seed) == (3, 8 / 255, 3)
    assert config.objective.gairat.lam == -2.5
    assert (config.data.flip, config.attack.random_start, config.model.width) == (True, False, 16)
    assert config.evaluation.losses == ("margin",)
    assert config.evaluation.attacks == ("square", "fab-t")
    assert config.train.schedule.boundaries == (1, 2.5)
    assert (config.model.mean, config.data.path) == ((0.5,), "a=b")
    assert config.is_locked


def test_none_unsets_an_optional_number_or_tuple_and_no_other_field():
    given = ["--config=imagenet_bat", "--config.data.side=None", "--config.model.mean=None"]
    config = arguments.parse([*given, "--config.model.mean=0.5", "--config.model.std=None"]).config
    assert (config.data.side, config.model.mean, config.model.std) == (None, (0.5,), None)
    for field in ("train.batch_size", "attack.epsilon", "evaluation.losses"):
        said = refused("--config=digits_bat", f"--config.{field}=None")
        assert f"config.{field} is None; expected" in said


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_for_any_field_is_legal_or_refused_by_that_field(kind):
    config = KINDS[kind]()
    texts = ["", "abc", "()", "[[[", "{1: 2}", "{'a': {}}", "True", "-", "9" * 5000, "(" * 3000]
    texts += [str(value) for value in WRONG if not isinstance(value, int) or value < 10**400]
    for path, _ in all_fields(configs.schema_of(config)):
        changed = config.copy_and_resolve_references()
        for text in texts:
            try:
                overrides.apply(changed, [Override(path, text)])
                configs.check(changed)
            except UserError as error:
                said = str(error)
                assert f"config.{path}" in said or path.startswith("findings."), (path, text, said)
        for name in (f"{path}.x", f"{path}[0]", f"x.{path}"):
            with pytest.raises(UserError, match="config"):
                overrides.apply(changed, [Override(name, "abc")])


def test_variants_of_the_findings_are_set_as_a_section():
    config = configs.findings()
    overrides.apply(config, [Override("findings.variants", "{'cold': {'temperature': 0.05}}")])
    assert config.findings.variants == ConfigDict({"cold": {"temperature": 0.05}})


def test_help_names_every_flag_and_starts_nothing():
    ended = launch("--help", "--nonsense=1")
    assert ended.returncode == 2
    ended = launch("--help")
    assert ended.returncode == 0
    assert ended.stderr == ""
    for word in (
        "--workdir=TEXT",
        "--num_processes=N",
        "--dry_run",
        "--config.SECTION.FIELD=VALUE",
    ):
        assert word in ended.stdout


def test_the_version_is_that_of_the_package():
    ended = launch("--version")
    assert (ended.returncode, ended.stdout) == (0, f"bat_jax {bat_jax.__version__}\n")


def test_help_and_flag_errors_import_nothing_large():
    # In a new process, because everything is already imported in this one.
    program = (
        "import sys; from bat_jax import cli;"
        " assert cli.main(['--help']) == cli.main(['--version']) == 0;"
        " assert cli.main(['--config=digits_bat', '--config.attack.epsilon=-8']) == 2;"
        " assert cli.main(['--config=digits_bat', '--config.attack.epsilom=1']) == 2;"
        " assert cli.main(['--config=digits_bat', '--config.attack.epsilom=None']) == 2;"
        " assert cli.main(['--config=digits_bat', '--config.findings.arm.x.y=1']) == 2;"
        " print([m for m in ('jax', 'numpy', 'orbax', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert ended.stdout.splitlines()[-1] == "[]"


def test_the_program_names_itself(capsys):
    assert cli.main(["--config=digits_bat", "--config.seed=-1"]) == 2
    assert capsys.readouterr().err == "bat-jax: config.seed is -1; expected 0 or more\n"


@pytest.fixture
def failing(monkeypatch):
    """Returns a function that makes the job of a command raise."""

    def fail(error):
        def job(config, workdir):
            raise error

        monkeypatch.setattr("bat_jax.jobs.train_and_evaluate", job)
        return launch("--config=digits_bat", "--workdir=run")

    return fail


def full_disk():
    return OSError(errno.ENOSPC, "No space left on device", "run/results.json")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("config.x is 1"), 2, "config.x is 1"),
        (full_disk(), 1, "run/results.json: No space left on device; free some space, then run"),
        (OSError("odd"), 1, "run: odd; fix that, then run the same command"),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "check its permissions"),
        (MemoryError(), 1, "out of memory (MemoryError); lower config.train.batch_size"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory"), 1, "(RESOURCE_EXHAUSTED: Out of mem"),
        (KeyboardInterrupt(), 130, "stopped; run the same command to resume"),
        (
            ModuleNotFoundError("No module", name="optax.x"),
            2,
            "optax is not installed; pip install",
        ),
    ],
)
def test_a_failure_gives_one_line_and_a_status(failing, error, status, words):
    ended = failing(error)
    assert ended.returncode == status
    assert ended.stderr.count("\n") == 1
    assert words in ended.stderr


def test_the_line_of_a_page_is_named_for_a_relative_path_too(tmp_path):
    (tmp_path / "mine.py").write_text("def get_config():\n    return 1 / 0\n")
    assert "mine.py: line 2: ZeroDivisionError" in refused("--config=mine.py")


def test_a_page_that_cannot_be_read_gives_one_line(monkeypatch):
    def load(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("bat_jax.overrides.load", load)
    assert refused("--config=page.py") == (
        "page.py: Permission denied; expected a config page that can be read"
    )


def test_a_page_may_be_in_the_home_folder(tmp_path, monkeypatch):
    shutil.copy(CONFIGS / "digits_bat.py", tmp_path / "mine.py")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert arguments.parse(["--config=~/mine.py"], program="bat-jax").name == "mine"


def test_help_needs_no_folder(monkeypatch):
    def cwd():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Path, "cwd", cwd)
    assert launch("--help").returncode == 0


def test_the_reader_of_the_output_may_leave():
    program = "import sys, time; time.sleep(0.2); from bat_jax import cli; sys.exit(cli.main())"
    pipe = f"{sys.executable} -c '{program}' --help | true; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", pipe], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (ended.stdout, ended.stderr) == ("1\n", "")


@pytest.mark.parametrize(("is_of_output", "words"), [(True, ""), (False, "run: Broken pipe; fix")])
def test_a_broken_pipe_is_an_error_unless_it_is_that_of_the_output(
    failing, monkeypatch, is_of_output, words
):
    monkeypatch.setattr(environment, "has_lost_reader", lambda: is_of_output)
    ended = failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert ended.returncode == 1
    assert words in ended.stderr
    assert ended.stderr.count("\n") == bool(words)


def test_an_error_of_the_program_itself_is_raised(failing):
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())


def test_sigterm_where_no_loop_records_it_gives_one_line(monkeypatch):
    def job(config, workdir):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("bat_jax.jobs.train_and_evaluate", job)
    before = signal.getsignal(signal.SIGTERM)
    ended = launch("--config=digits_bat")
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr == "launch.py: stopped by SIGTERM; run the same command to resume\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_control_c_before_the_job_gives_one_line(monkeypatch):
    def interrupted(argv, *, program):
        raise KeyboardInterrupt

    monkeypatch.setattr(arguments, "parse", interrupted)
    ended = launch("--config=digits_bat")
    assert ended.returncode == 130
    assert ended.stderr == "launch.py: stopped before the run began; run the same command\n"


def test_control_c_while_jax_is_imported_waits_for_the_import():
    seen, before = [], signal.getsignal(signal.SIGINT)

    def interrupted():
        with cli._undisturbed():
            signal.raise_signal(signal.SIGINT)
            seen.append("imported")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen == ["imported"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_call_leaves_the_process_as_it_was(failing):
    def state():
        return (
            [*sys.path],
            [*logging.root.handlers],
            logging.getLogger("bat_jax").level,
            threading.excepthook,
            sys.unraisablehook,
        )

    before = state()
    failing(KeyboardInterrupt())
    assert state() == before


def test_a_warning_is_shown_once(monkeypatch):
    def job(config, workdir):
        for _ in range(3):
            logging.getLogger("bat_jax.training").warning("the learning rate never decays")
            logging.getLogger("another.package").warning("something else")
        raise KeyboardInterrupt

    monkeypatch.setattr("bat_jax.jobs.train_and_evaluate", job)
    # Orbax configures the root logger as it is imported, with names and levels in every line.
    others = logging.StreamHandler(sys.stderr)
    others.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    monkeypatch.setattr(logging.root, "handlers", [others])
    lines = launch("--config=digits_bat", "--workdir=run").stderr.splitlines()
    assert lines[:-1] == ["the learning rate never decays", "something else"]


def of_thread(name):
    """Returns the exception of a thread in a function of a file of this name."""
    function = compile("def raising(): raise OSError(28, 'No space left')", name, "exec")
    namespace = {}
    exec(function, namespace)
    thread = threading.Thread(target=namespace["raising"])
    thread.start()
    thread.join()


def test_only_messages_of_orbax_about_its_threads_are_hidden(caplog):
    shown = []
    before, threading.excepthook = threading.excepthook, lambda args: shown.append(args.exc_value)
    try:
        with quiet():
            of_thread("/site-packages/orbax/checkpoint/future.py")
            assert not shown
            of_thread("/site-packages/other/future.py")
            assert len(shown) == 1
            absl = logging.getLogger("absl")
            for place in ("orbax/checkpoint/x.py", "other.py"):
                absl.handle(absl.makeRecord("absl", 40, f"/{place}", 1, place, (), None))
    finally:
        threading.excepthook = before
    assert caplog.messages == ["other.py"]


def test_fields_of_open_sections_are_those_of_the_page():
    page = f"--config={CONFIGS}/fashion_mnist_findings_cpu.py"
    members = "findings.robust_ensemble.memorization.members"
    gamma = "findings.arms.trades_awp.objective.awp.gamma"
    config = arguments.parse([page, f"--config.{members}=400", f"--config.{gamma}=0.01"]).config
    assert config.findings.robust_ensemble.memorization.members == 400
    assert config.findings.arms.trades_awp.objective.awp.gamma == 0.01
    evaluation = [f"--config={CONFIGS}/evaluation.py", "--config.evaluation.num_steps=None"]
    assert arguments.parse(evaluation).config.evaluation.num_steps is None
    with pytest.raises(UserError, match=r"findings\.arms\.nobody"):
        arguments.parse([page, "--config.findings.arms.nobody.objective.awp.gamma=0.01"])


def test_options_of_an_optimizer_are_those_of_the_page(tmp_path):
    (tmp_path / "lion.py").write_text(
        "from bat_jax.config import default\n"
        "def get_config():\n"
        "    config = default()\n"
        "    config.train.optimizer.name = 'optax:lion'\n"
        "    config.train.optimizer.options = {'b1': 0.9}\n"
        "    return config\n"
    )
    field = "--config.train.optimizer.options"
    config = arguments.parse([f"--config={tmp_path}/lion.py", f"{field}.b1=0.8"]).config
    assert config.train.optimizer.options.b1 == 0.8
    with pytest.raises(UserError, match=r"options has no field 'b2'; it has b1$"):
        arguments.parse([f"--config={tmp_path}/lion.py", f"{field}.b2=0.8"])
    # A page without options has no types for them: they are set as a section.
    with pytest.raises(UserError, match=r"options has no field 'b1'; it has none: set them in one"):
        arguments.parse(["--config=digits_bat", f"{field}.b1=0.8"])
    optimizer = "--config.train.optimizer.name=optax:lion"
    config = arguments.parse(["--config=digits_bat", optimizer, f"{field}={{'b1': 0.8}}"]).config
    assert config.train.optimizer.options.b1 == 0.8
