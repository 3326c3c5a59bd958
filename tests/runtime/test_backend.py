"""Settings before JAX starts never override a user's settings."""

import jax
import pytest

from bat_jax.errors import UserError
from bat_jax.runtime import backend


@pytest.fixture(autouse=True)
def _config_as_it_was(monkeypatch):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.setenv("XLA_FLAGS", "")
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize("version", ["0.10.2", "0.11.2", "0.12.0.1"])
def test_a_known_jaxlib_gets_the_flag(monkeypatch, version):
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(backend.jaxlib, "__version__", version)
    backend.prepare(compilation_cache="none")
    assert "LIBRARY_FUSION_TYPE_DOT" in backend.os.environ["XLA_FLAGS"]
    assert jax.config.jax_compilation_cache_dir is None


def test_another_jaxlib_does_not(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(backend.jaxlib, "__version__", "0.99.0")
    backend.prepare(compilation_cache="none")
    assert "XLA_FLAGS" not in backend.os.environ


def test_a_program_promotes_as_its_libraries_need():
    assert jax.config.jax_numpy_dtype_promotion == "strict"
    backend.prepare(compilation_cache="none")
    assert jax.config.jax_numpy_dtype_promotion == "standard"
    assert jax.config.jax_numpy_rank_promotion == "allow"


def test_a_users_flags_and_cache_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    backend.prepare(compilation_cache=None)
    assert backend.os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    assert jax.config.jax_compilation_cache_dir == before


def test_programs_are_kept_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend.prepare(compilation_cache=None)
    folder = jax.config.jax_compilation_cache_dir
    assert folder == str(backend.default_compilation_cache())
    assert folder.startswith(f"{tmp_path}/bat_jax/programs-")


@pytest.mark.parametrize("why", ["no home folder", "not writable"])
def test_without_a_cache_folder_programs_are_not_kept_with_one_warning(
    monkeypatch, tmp_path, caplog, why
):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    if why == "no home folder":
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(backend.Path, "home", _no_home)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    backend.prepare(compilation_cache=None)
    assert jax.config.jax_compilation_cache_dir is None
    (record,) = caplog.records
    assert "compiled programs are not kept" in record.getMessage()


def _no_home():
    raise RuntimeError("Could not determine home directory.")


def test_a_folder_named_for_programs_is_made_or_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    backend.prepare(compilation_cache="~/kept")
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "kept")
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"--compilation_cache=.*file: .*; expected a writable folder"
    ):
        backend.prepare(compilation_cache=str(tmp_path / "file"))
    with pytest.raises(UserError, match="--compilation_cache=~nosuchuser/x: "):
        backend.prepare(compilation_cache="~nosuchuser/x")
    backend.prepare(compilation_cache="gs://bucket/kept")
    assert jax.config.jax_compilation_cache_dir == "gs://bucket/kept"


@pytest.fixture
def updated(monkeypatch, tmp_path):
    """A machine of four cores without limits; returns the updates of JAX's config."""
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setattr(backend.os, "sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr(backend, "_CGROUP", tmp_path)
    found = {}
    monkeypatch.setattr(backend.jax.config, "update", found.__setitem__)
    return found


@pytest.mark.parametrize(
    ("cores", "sharing", "devices"),
    [(4, (), 4), (4, (64, 1000), 4), (3, (64, 1000), 2), (7, (9,), 3)],
)
def test_cores_become_devices_that_can_share_the_batches(
    monkeypatch, updated, cores, sharing, devices
):
    monkeypatch.setattr(backend.os, "sched_getaffinity", lambda _: range(cores))
    backend.use_cores_as_devices(sharing=sharing)
    assert updated == {"jax_num_cpu_devices": devices}


@pytest.mark.parametrize(
    ("files", "devices"),
    [
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "900000 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_a_containers_cpu_limit_is_respected(updated, tmp_path, files, devices):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    backend.use_cores_as_devices()
    assert updated == {"jax_num_cpu_devices": devices}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_NUM_CPU_DEVICES", "8"),
        ("XLA_FLAGS", "--xla_foo=1 --xla_force_host_platform_device_count=8"),
    ],
)
def test_a_number_of_devices_in_the_environment_stays(monkeypatch, updated, name, value):
    monkeypatch.setenv(name, value)
    backend.use_cores_as_devices()
    assert not updated
