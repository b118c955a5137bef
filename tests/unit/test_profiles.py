"""Launch profiles: read, laid over each other, and turned into command lines."""

import dataclasses
import shlex
import signal
import subprocess
import sys

import pytest

from pytest_multiitem.adapters import launched
from pytest_multiitem.adapters.base import ENGINES, Profile, choose_engine
from pytest_multiitem.adapters.installed import Installed
from pytest_multiitem.adapters.profiles import arguments, launch_profile, read_profiles, with_profile_defaults
from pytest_multiitem.errors import EngineUnavailable, UsageError
from pytest_multiitem.settings.resolve import resolve

SGLANG, SGL_JAX = choose_engine("sglang"), choose_engine("sgl-jax")
COMMON = {
    "model-path", "dtype", "device", "log-level", "download-dir", "attention-backend", "disable-radix-cache",
    "chunked-prefill-size", "mem-fraction-static", "max-total-tokens", "max-running-requests", "sleep-on-idle",
}  # fmt: skip


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Sets what is installed in the environment of the engines."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)

    def install(version, *flags, packages=()):
        there = Installed(str(python), version, frozenset({*COMMON, *flags}), dict.fromkeys(packages, "1.0"))
        monkeypatch.setattr(launched, "inspect", lambda *question: there)
        return str(python)

    return install


def settings_of(python=None, engine="sglang", **more):
    python = python or sys.executable
    given = {"multiitem_engine": engine, "multiitem_engine_python": python, "multiitem_model": "/models/m", **more}
    return choose_engine(engine).fit(resolve({k: v for k, v in given.items() if v is not None}, {}, {}))


def after(command, flag):
    return command[command.index(flag) + 1]


def test_every_shipped_profile_belongs_to_an_adapter_and_its_role():
    for name in read_profiles():
        for device in ("cpu", "cuda"):
            profile = launch_profile(name, device=device)
            assert profile.engine in ENGINES.shipped() and name.startswith(profile.engine)
            assert profile.about and profile.alternatives()
    assert {launch_profile(n, device="cuda").port for n in ("sglang-multi", "sglang-serial")} == {30010, 30011}
    assert launch_profile("sglang-multi-frozen", device="cuda").port == 30020


def test_the_first_generation_gets_the_delimiter_and_the_second_its_switch(installed):
    old = installed("0.5.10.post1", "multi-item-scoring-delimiter")
    profile = Profile("multi", "pytorch", "flashinfer", 0)
    command = SGLANG.launch(profile, settings_of(old)).command
    assert after(command, "--multi-item-scoring-delimiter") == "151643"
    assert "--disable-radix-cache" in command and after(command, "--chunked-prefill-size") == "-1"
    new = installed("0.5.23", "enable-mis")
    command = SGLANG.launch(profile, settings_of(new)).command
    assert "--enable-mis" in command and "--multi-item-scoring-delimiter" not in command
    assert "--disable-radix-cache" not in command and "--chunked-prefill-size" not in command


@pytest.mark.parametrize(
    ("device", "packages", "backend"),
    [
        ("cpu", ("sglang-mis-cpu",), "flashinfer"),
        ("cpu", ("torch",), "torch_native"),
        ("cuda", ("sglang-mis-cpu",), "flashinfer"),
    ],
)
def test_a_package_that_stands_in_for_flashinfer_is_used_on_a_cpu(installed, device, packages, backend):
    settings = settings_of(installed("0.5.23", "enable-mis", packages=packages), multiitem_device=device)
    profile = Profile("multi", "pytorch", "flashinfer", 0)
    spec = SGLANG.launch(profile, settings)
    assert after(spec.command, "--attention-backend") == backend
    assert SGLANG.asked(profile, settings)["attention_backend"] == backend
    stands_in = (device, *packages) == ("cpu", "sglang-mis-cpu")
    assert ("SGLANG_SKIP_SGL_KERNEL_VERSION_CHECK" in spec.env) == stands_in
    serial = SGLANG.launch(Profile("serial", "pytorch"), settings)
    assert after(serial.command, "--attention-backend") == ("torch_native" if device == "cpu" else "flashinfer")


def test_own_profiles_may_change_what_a_package_changes(installed, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('[sglang-multi.cpu_with.sglang-mis-cpu.flags]\nattention-backend = "triton"\n')
    python = installed("0.5.23", "enable-mis", packages=("sglang-mis-cpu",))
    settings = settings_of(python, multiitem_device="cpu", multiitem_profiles=str(own))
    command = SGLANG.launch(Profile("multi", "pytorch", "flashinfer", 0), settings).command
    assert after(command, "--attention-backend") == "triton"


SGL_JAX_CPU = ("tp-size", "skip-server-warmup", "context-length", "max-prefill-tokens", "precompile-token-paddings",
               "precompile-bs-paddings", "grammar-backend")  # fmt: skip
EXTEND = ("enable-scoring-cache", "multi-item-enable-prefill-extend", "multi-item-extend-batch-size")
PACK = ("multi-item-scoring-delimiter", "multi-item-scoring-chunk-size", "multi-item-mask-impl",
        "multi-item-segment-fallback-threshold")  # fmt: skip


@pytest.mark.parametrize(
    ("version", "flags", "more", "less"),
    [
        ("main", (), {"--disable-radix-cache"}, {"--enable-scoring-cache"}),
        ("0c283689", (*PACK, *EXTEND), {"--disable-radix-cache"}, {"--enable-scoring-cache"}),
        ("7ca65bbd", EXTEND, {"--enable-scoring-cache"}, {"--disable-radix-cache"}),
    ],
)
@pytest.mark.parametrize("tuned", [False, True])
def test_the_serial_sgl_jax_starts_in_every_version(installed, version, flags, more, less, tuned):
    settings = settings_of(installed(version, *SGL_JAX_CPU, *flags), "sgl-jax", multiitem_device="cpu")
    command = SGL_JAX.launch(Profile("serial", "jax", tuned=tuned), settings).command
    more = more - {"--disable-radix-cache"} if tuned else more
    assert more <= set(command) and not less & set(command) and "--multi-item-scoring-delimiter" not in command


def test_what_the_serial_sgl_jax_needs_is_not_asked_of_the_other_roles(installed):
    packed, extend = Profile("multi", "jax", "segment", 0), Profile("extend", "jax")
    settings = settings_of(installed("0c283689", *SGL_JAX_CPU, *PACK, *EXTEND), "sgl-jax", multiitem_device="cpu")
    command = SGL_JAX.launch(packed, settings).command
    assert "--disable-radix-cache" in command and "--enable-scoring-cache" not in command
    command = SGL_JAX.launch(extend, settings).command
    assert "--disable-radix-cache" not in command and command.count("--enable-scoring-cache") == 1
    settings = settings_of(installed("7ca65bbd", *SGL_JAX_CPU, *EXTEND), "sgl-jax", multiitem_device="cpu")
    assert SGL_JAX.unavailable(extend, settings) is None
    assert SGL_JAX.unavailable(packed, settings).count("--multi-item-scoring-delimiter") == 1


def test_a_profile_that_a_version_cannot_express_names_the_flags(installed):
    python = installed("0.6.0")
    profile = Profile("multi", "pytorch", "flashinfer", 0)
    settings = settings_of(python)
    with pytest.raises(EngineUnavailable, match=r"sglang 0\.6\.0 in .* cannot express the launch profile sglang-multi"):
        SGLANG.launch(profile, settings)
    reason = SGLANG.unavailable(profile, settings)
    assert "--enable-mis" in reason and "--multi-item-scoring-delimiter" in reason
    assert SGLANG.unavailable(Profile("serial", "pytorch"), settings) is None


def test_the_device_chooses_flags_and_precision(installed):
    python = installed("0.5.23", "enable-mis")
    serial = Profile("serial", "pytorch")
    on_cpu, on_gpu = (settings_of(python, multiitem_device=device) for device in ("cpu", "cuda"))
    command, spec = SGLANG.launch(serial, on_gpu).command, SGLANG.launch(serial, on_cpu)
    assert after(command, "--attention-backend") == "flashinfer" and after(command, "--dtype") == "bfloat16"
    assert after(spec.command, "--attention-backend") == "torch_native" and after(spec.command, "--dtype") == "float32"
    assert spec.env["SGLANG_USE_CPU_ENGINE"] == "1" and spec.env["PYTHONSAFEPATH"] == "1"
    assert on_cpu.origins["dtype"] == "profile sglang-multi"


def test_both_serial_baselines_differ_in_what_is_switched_off(installed):
    settings = settings_of(installed("0.5.23", "enable-mis"))
    same, tuned = (SGLANG.launch(Profile("serial", "pytorch", tuned=tuned), settings) for tuned in (False, True))
    assert "--disable-radix-cache" in same.command and "--disable-radix-cache" not in tuned.command
    assert same.key != tuned.key and same.label == "serial pytorch" and tuned.label == "tuned serial pytorch"


def test_a_profile_brings_its_settings_and_the_user_has_the_last_word():
    chosen = {"multiitem_multi_profile": "sgl-jax-portable"}
    settings = settings_of(engine="sgl-jax", **chosen)
    assert (settings.server_chunk_size, settings.mask_impl, settings.segment_threshold) == ((500,), ("auto",), 32768)
    assert settings.origins["mask_impl"] == "profile sgl-jax-portable" and settings.backend == ("jax",)
    settings = settings_of(engine="sgl-jax", multiitem_mask_impl="dense", **chosen)
    assert settings.mask_impl == ("dense",) and settings.origins["mask_impl"] == "command line"
    settings = settings_of(engine="sgl-jax", multiitem_multi_profile="sgl-jax-best-native")
    assert settings.server_chunk_size == (64,)


def test_an_engine_fits_the_settings_to_what_it_has():
    settings = settings_of()
    assert (settings.backend, settings.mask_impl, settings.semantics) == (("pytorch",), ("flashinfer",), "query_prefix")
    with pytest.raises(UsageError, match=r"--multiitem-backend: 'jax' is not valid: .* pytorch, all: engine sglang"):
        settings_of(multiitem_backend="jax")
    with pytest.raises(UsageError, match=r"--multiitem-mask-impl: 'dense' .* flashinfer, all: engine sglang"):
        settings_of(multiitem_mask_impl="dense")


def test_a_role_that_an_engine_does_not_have_is_unavailable(installed):
    settings = settings_of(installed("0.5.23", "enable-mis"))
    assert "no launch profile for extend servers" in SGLANG.unavailable(Profile("extend", "pytorch"), settings)


def test_what_is_missing_is_named():
    given = {"multiitem_engine": "sglang", "multiitem_engine_python": sys.executable, "multiitem_model": "/models/m"}
    for missing, words in (("engine_python", "--engine-python PATH"), ("model", "name one: --model DIR")):
        less = {name: value for name, value in given.items() if not name.endswith(f"multiitem_{missing}")}
        with pytest.raises(UsageError, match=words):
            SGLANG.fit(resolve(less, {}, {}))
        SGLANG.fit(resolve({**less, "multiitem_multi_url": "http://127.0.0.1:1"}, {}, {}))


OWN = """
[sglang-serial.flags]
tp-size = 4
[sglang-serial.cpu.flags]
max-total-tokens = false
[mine]
engine = "sglang"
role = "serial"
extends = "sglang-serial-tuned"
[mine.env]
CUDA_VISIBLE_DEVICES = "1"
"""


def test_a_users_own_file_is_laid_over_the_shipped_one(tmp_path, installed):
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    mine = launch_profile("mine", device="cpu", own=path)
    assert mine.env == {"CUDA_VISIBLE_DEVICES": "1", "SGLANG_USE_CPU_ENGINE": "1"} and mine.port == 30015
    assert mine.flags["tp-size"] == 4, "what the extended profile got is passed on"
    assert "max-total-tokens" not in mine.alternatives()[0]
    assert "tp-size" not in launch_profile("sglang-serial", device="cpu").flags
    python = installed("0.5.23", "tp-size")
    settings = settings_of(python, multiitem_profiles=str(path), multiitem_serial_profile="mine")
    assert after(SGLANG.launch(Profile("serial", "pytorch"), settings).command, "--tp-size") == "4"


FIT = "[a]\nengine = 'sglang'\nrole = 'multi'\nport = 1\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "'x' stands outside of a table"),
        (FIT + "flag = 1", r"own.toml: \[a\]: .*unknown field `flag`; expected engine, role .multi, serial or extend."),
        (FIT + "name = 'b'", r"\[a\]: .*unknown field `name`"),
        (FIT + "cpu.port = 2", r"\[a\]: .*unknown field `port` - at `\$.cpu`; expected .* cpu .with settings, flags"),
        ("[a]\nengine = 'sglang'\nrole = 'multi'", r"\[a\]: .*missing required field `port`"),
        (
            "[a]\nengine = 'sglang'\nrole = 'many'\nport = 1",
            r"\[a\]: .*'many' - at `\$.role`; expected .*role .multi",
        ),
        (FIT + "env = {A = 1}", r"\[a\]: Expected `str`, got `int` - at `\$.env"),
        ("[a]\nextends = ['b']", r"'a' extends \['b'\], which does not exist"),
        ("[a]\nextends = 'b'", "'a' extends 'b', which does not exist"),
        ("[a]\nextends = 'b'\n[b]\nextends = 'a'", "extends itself"),
        ("[a", "not valid TOML"),
        ("a = " + "[" * 100_000, "not valid TOML"),
    ],
)
def test_a_faulty_file_is_named_with_its_fault(tmp_path, text, words):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_profiles(path)


def test_a_profile_of_another_engine_or_role_is_refused():
    with pytest.raises(UsageError, match="'sglang-serial' starts sglang as serial; a profile of sglang for the multi"):
        settings_of(multiitem_multi_profile="sglang-serial")
    with pytest.raises(UsageError, match="did you mean 'sglang-multi'"):
        settings_of(multiitem_multi_profile="sglang-mult")


def test_a_wrong_setting_in_a_profile_is_named(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("[sglang-multi]\nsettings = { dtype = 'float64' }")
    settings = dataclasses.replace(settings_of(multiitem_device="cuda"), profiles=path)
    with pytest.raises(UsageError, match="profile sglang-multi: setting dtype = 'float64' is not valid"):
        with_profile_defaults(settings, "sglang")


def test_flags_become_arguments():
    flags = {"on": True, "n": 3, "many": [1, 2], "given": "{a}", "list": "{b}", "none": "{c}", "empty": "{d}"}
    values = {"a": 0, "b": (4, 5), "c": None, "d": ()}
    assert arguments(flags, values) == ["--on", "--n", "3", "--many", "1", "2", "--given", "0", "--list", "4", "5"]


def test_launch_prints_the_line_that_a_run_would_use(installed, multiitem):
    python = installed("0.5.23", "enable-mis")
    words = ["--engine-python", python, "--model=/models/m", "--multiitem-device", "cuda"]
    code, line, err = multiitem("launch", *words, "sglang-multi-frozen", "--dry-run")
    assert (code, err) == (0, "")
    assert line.endswith("--enable-mis\n") and "--port 30020 " in line and "--attention-backend flashinfer" in line
    settings = settings_of(python, multiitem_multi_profile="sglang-multi-frozen", multiitem_device="cuda")
    command = SGLANG.launch(Profile("multi", "pytorch", "flashinfer", 0), settings).command
    printed = line.split()
    assert printed[printed.index(python) :] == shlex.join(command).replace("'{port}'", "30020").split()


def test_a_launch_becomes_the_server(tmp_path):
    """A signal to ``multiitem launch`` ends the server itself: there is one process, not two."""
    server = tmp_path / "server"
    server.write_text("#!/bin/sh\necho $$ $MARK\nexec sleep 30\n")
    server.chmod(0o755)
    code = (
        "from pytest_multiitem.commands.launch import run\n"
        "from pytest_multiitem.servers.process import LaunchSpec\n"
        f"run(LaunchSpec('it', ({str(server)!r},), {{'MARK': 'm'}}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().split() == [str(process.pid), "m"]
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM
