"""packaging/bootstrap against stand-ins for Python, pip and the package manager."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = [
    "bash",
    "cat",
    "cp",
    "cut",
    "date",
    "dirname",
    "find",
    "flock",
    "grep",
    "kill",
    "mkdir",
    "mktemp",
    "mv",
    "printf",
    "readlink",
    "rm",
    "sed",
    "sha256sum",
    "sleep",
    "sort",
    "tail",
    "touch",
    "xargs",
]
PACKAGES = ("systemd", "dbus", "dbus-user-session", "libpam-systemd", "util-linux")
TEST_PROGRAMS = ("tmux", "vim", "less", "htop", "dtach", "asciinema")
DEADLINE = 120

PYTHON = """#!/bin/bash
echo "python $*" >>"$STUB_LOG"
case "$*" in
    *ensurepip*) echo "ok 3.11.9 /stand-in" ;;
    "-m venv .venv")
        mkdir -p .venv/bin
        cp "$0" .venv/bin/python
        printf '#!/bin/bash\\necho "sessionctl $*"\\n' >.venv/bin/sessionctl
        chmod +x .venv/bin/sessionctl ;;
    *"import gi, pydbus"*)
        [[ -z ${STUB_NO_ORACLE:-} ]] && exit
        [[ $STUB_NO_ORACLE == unbuilt && -e .venv/pydbus ]] && exit
        echo "ImportError: no typelib" >&2; exit 1 ;;
    *sysconfig*) echo /nonexistent ;;
    *tomllib*) echo "pydbus==0" ;;
    *"pip "*"install"*)
        [[ $* == *pydbus* ]] && touch .venv/pydbus
        case "${STUB_PIP:-}" in
            fail) echo "no such wheel"; exit 1 ;;
            die) kill -KILL $PPID ;;
            wait) read -r _ <"$STUB_FIFO" ;;
        esac ;;
    "-m tests.agents.programs"*)
        [[ ${STUB_AGENTS:-there} == there ]] && exit
        [[ $* != *--check* && $STUB_AGENTS == missing ]] && exit
        echo "claude: npm found no network" >&2; exit 1 ;;
    "-m pytest"* | "-m tests.together"*) echo "pytest ran; oracle: ${SESSIOND_TEST_NO_ORACLE:-there}" ;;
esac
"""
DPKG_QUERY = """#!/bin/bash
for package in $STUB_INSTALLED; do echo "installed $package"; done
exit 1
"""
RECORD = '#!/bin/bash\necho "${0##*/} $*" >>"$STUB_LOG"\n'


@dataclass(frozen=True)
class Checkout:
    """A checkout with only what bootstrap looks at, and a PATH with only what it is given."""

    root: Path
    bin: Path
    log: Path

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def remove(self, *names: str) -> None:
        for name in names:
            (self.bin / name).unlink()

    def environment(self, **changes: str) -> dict[str, str]:
        return {
            "PATH": str(self.bin),
            "HOME": os.environ["HOME"],
            # One that is killed leaves its log there.
            "TMPDIR": str(self.log.parent),
            "STUB_LOG": str(self.log),
            "STUB_INSTALLED": " ".join(PACKAGES),
        } | changes

    def run(self, *arguments: str, cwd: str = "/", **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.bin / "bash", self.root / "packaging/bootstrap", *arguments],
            cwd=cwd,
            env=self.environment(**changes),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

    def calls(self, *wanted: str) -> list[str]:
        """Return the recorded calls that hold one of the wanted words, and forget all of them."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if any(word in line for word in wanted)]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A Debian with Python and every package, where nothing was set up yet; run by a plain user."""
    made = Checkout(tmp_path / "a checkout", tmp_path / "bin", tmp_path / "log")
    made.bin.mkdir()
    for folder in ("packaging", "sessiond", "units"):
        (made.root / folder).mkdir(parents=True)
    (made.root / "sessiond/__init__.py").write_text("one = 1\n")
    shutil.copy(ROOT / "packaging/bootstrap", made.root / "packaging")
    shutil.copy(ROOT / "pyproject.toml", made.root)
    for name in TOOLS:
        real = shutil.which(name)
        assert real is not None, name
        (made.bin / name).symlink_to(real)
    made.program("python3.11", PYTHON)
    made.program("dpkg-query", DPKG_QUERY)
    made.program("id", "#!/bin/bash\necho 1000\n")
    made.program("chmod", f'#!/bin/bash\nexec {shutil.which("chmod")} "$@"\n')
    for name in ("apt-get", "apt-cache", *TEST_PROGRAMS):
        made.program(name, RECORD)
    return made


def as_root(checkout: Checkout) -> None:
    checkout.program("id", "#!/bin/bash\necho 0\n")


def assert_fine(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == 0, run.stdout + run.stderr


# --- usage ---------------------------------------------------------------------------------------


def test_help_is_no_error(checkout: Checkout) -> None:
    run = checkout.run("help")
    assert_fine(run)
    assert "bootstrap COMMAND" in run.stdout


def test_unknown_command_is_bad_usage(checkout: Checkout) -> None:
    run = checkout.run("dmeo")
    assert run.returncode == 2
    assert "unknown command: dmeo" in run.stderr
    assert not (checkout.root / ".venv").exists()


# --- finding Python ------------------------------------------------------------------------------


def test_without_a_usable_python_it_says_what_was_looked_at(checkout: Checkout) -> None:
    checkout.remove("python3.11")
    checkout.program("python3.13", "#!/bin/bash\necho 'pyenv: not set' >&2\nexit 127\n")
    checkout.program("python3.12", "#!/bin/bash\necho 'no it lacks the module ensurepip'\n")
    checkout.program("python3", "#!/bin/bash\necho 'no it is Python 3.8'\n")
    run = checkout.run("test")
    assert run.returncode == 1
    for told in (
        "3.11 or later",
        "python3.13: it does not run",
        "python3.12: it lacks the module ensurepip",
        "python3: it is Python 3.8",
        "PYTHON=",
    ):
        assert told in run.stderr
    assert not (checkout.root / ".venv").exists()


def test_a_shim_that_fails_is_passed_over(checkout: Checkout) -> None:
    checkout.program("python3.13", "#!/bin/bash\nexit 127\n")
    run = checkout.run("test")
    assert_fine(run)
    assert f"{checkout.bin}/python3.11 (3.11.9)" in run.stdout


def test_python_names_the_interpreter_to_try_first(checkout: Checkout, tmp_path: Path) -> None:
    assert_fine(checkout.run("test"))
    own = tmp_path / "own python"
    own.write_text(PYTHON.replace("3.11.9", "3.12.7"))
    own.chmod(0o755)
    changed = checkout.run("test", PYTHON=str(own))
    assert_fine(changed)
    assert f"{own} (3.12.7)" in changed.stdout
    checkout.calls()
    assert_fine(checkout.run("test", PYTHON=str(own)))
    assert not checkout.calls("venv .venv", "install")


# --- system packages -----------------------------------------------------------------------------


def test_a_plain_user_is_told_the_command_for_missing_packages(checkout: Checkout) -> None:
    run = checkout.run("demo", STUB_INSTALLED="systemd util-linux dbus")
    assert run.returncode == 1
    assert (
        "sudo apt-get update && sudo apt-get install --yes --no-install-recommends "
        "dbus-user-session libpam-systemd\n"
    ) in run.stderr
    assert not checkout.calls("apt-get")


def test_root_gets_missing_packages_installed(checkout: Checkout) -> None:
    as_root(checkout)
    assert_fine(checkout.run("demo", STUB_INSTALLED="systemd util-linux dbus"))
    assert checkout.calls("apt-get") == [
        "apt-get update -q",
        "apt-get install -q --yes --no-install-recommends dbus-user-session libpam-systemd",
    ]


def test_root_is_shown_why_apt_failed(checkout: Checkout) -> None:
    as_root(checkout)
    checkout.program("apt-get", "#!/bin/bash\necho 'Unable to locate'\nexit 100\n")
    run = checkout.run("demo", STUB_INSTALLED="")
    assert run.returncode == 1
    assert "Unable to locate" in run.stderr
    assert "apt-get could not install: systemd" in run.stderr


def test_root_gets_a_python_where_there_is_none(checkout: Checkout) -> None:
    as_root(checkout)
    checkout.program("spare", PYTHON)
    checkout.remove("python3.11")
    checkout.program("apt-cache", "#!/bin/bash\n[[ $1 == policy ]] && echo '  Candidate: 3.12.3-1'\n")
    checkout.program(
        "apt-get", RECORD + f'[[ $1 == update ]] || cp "{checkout.bin}/spare" "{checkout.bin}/python3"\n'
    )
    assert_fine(checkout.run("demo"))
    assert "apt-get install -q --yes --no-install-recommends python3 python3-venv" in checkout.calls(
        "apt-get"
    )


def test_elsewhere_missing_programs_are_named(checkout: Checkout) -> None:
    checkout.remove("dpkg-query")
    for name in ("systemctl", "systemd-run", "journalctl", "loginctl", "mount", "dbus-broker"):
        checkout.program(name, RECORD)
    run = checkout.run("demo")
    assert run.returncode == 1
    assert "these programs are missing: unshare, nsenter\n" in run.stderr
    for name in ("unshare", "nsenter"):
        checkout.program(name, RECORD)
    assert_fine(checkout.run("demo"))


# --- again, and after bad endings ----------------------------------------------------------------


def test_the_second_run_goes_straight_to_work(checkout: Checkout, tmp_path: Path) -> None:
    first = checkout.run("test", "-k", "house")
    assert_fine(first)
    assert "\x1b" not in first.stdout + first.stderr
    assert checkout.calls("venv .venv", "install", "pytest", "together") == [
        "python -m venv .venv",
        "python -m pip --quiet --no-input --disable-pip-version-check install --editable .[test]",
        "python -m tests.together -k house",
    ]
    second = checkout.run("test", cwd=str(tmp_path))
    assert_fine(second)
    assert second.stdout == "pytest ran; oracle: there\n"
    assert checkout.calls("venv .venv", "install", "pytest", "together") == ["python -m tests.together"]
    checkout.run("test", "tests/unit/test_house.py", "-q")
    assert checkout.calls("pytest", "together")[-1:] == ["python -m pytest tests/unit/test_house.py -q"]


def test_changed_requirements_are_installed_into_the_same_environment(checkout: Checkout) -> None:
    assert_fine(checkout.run("test"))
    checkout.calls()
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert_fine(checkout.run("test"))
    assert len(checkout.calls("venv .venv", "install")) == 1


def test_the_demo_runs_what_the_sources_say_now(checkout: Checkout) -> None:
    run = checkout.run("demo", "--fast")
    assert_fine(run)
    assert run.stdout.endswith("sessionctl demo --fast\n")
    assert [call.rsplit(" ", 1)[1] for call in checkout.calls("install")] == ["."]
    assert_fine(checkout.run("demo"))
    assert not checkout.calls("install")
    (checkout.root / "sessiond/__init__.py").write_text("two = 2\n")
    assert_fine(checkout.run("demo"))
    assert len(checkout.calls("install")) == 1
    assert_fine(checkout.run("test"))
    assert len(checkout.calls("install")) == 1
    (checkout.root / "sessiond/__init__.py").write_text("three = 3\n")
    assert_fine(checkout.run("demo"))
    assert not checkout.calls("install"), "an editable installation follows the sources by itself"


def test_a_failed_installation_is_shown_and_tried_again(checkout: Checkout) -> None:
    run = checkout.run("test", STUB_PIP="fail")
    assert run.returncode == 1
    assert "    no such wheel\n" in run.stderr
    assert "pip could not install" in run.stderr
    assert "pytest ran" not in run.stdout
    checkout.calls()
    assert_fine(checkout.run("test"))
    assert len(checkout.calls("install")) == 1


def test_an_environment_killed_midway_is_made_anew(checkout: Checkout) -> None:
    assert checkout.run("test", STUB_PIP="die").returncode == -signal.SIGKILL
    (checkout.root / ".venv/half").touch()
    (checkout.root / ".venv.old.1").mkdir()
    checkout.calls()
    assert_fine(checkout.run("test"))
    assert len(checkout.calls("venv .venv")) == 1
    assert not (checkout.root / ".venv/half").exists()
    assert not (checkout.root / ".venv.old.1").exists()


def test_an_environment_whose_python_is_gone_is_made_anew(checkout: Checkout) -> None:
    assert_fine(checkout.run("test"))
    (checkout.root / ".venv/bin/python").unlink()
    (checkout.root / ".venv/bin/python").symlink_to("/nonexistent/python3.11")
    checkout.calls()
    assert_fine(checkout.run("test"))
    assert len(checkout.calls("venv .venv", "install")) == 2


def test_a_moved_checkout_is_set_up_again(checkout: Checkout) -> None:
    assert_fine(checkout.run("test"))
    checkout.calls()
    moved = Checkout(checkout.root.rename(checkout.root.with_name("moved")), checkout.bin, checkout.log)
    assert_fine(moved.run("test"))
    assert moved.calls("install")


def test_of_two_runs_at_once_the_second_waits_and_installs_nothing(
    checkout: Checkout, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    environment = checkout.environment(STUB_PIP="wait", STUB_FIFO=str(fifo))
    command: Sequence[str | Path] = [checkout.bin / "bash", checkout.root / "packaging/bootstrap", "test"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    with start() as first:
        # Opening for writing returns once the first run's pip is there to read.
        with fifo.open("w") as release:
            with start() as second:
                assert second.stdout is not None
                assert "another run is setting up" in second.stdout.readline()
                release.write("go\n")
                release.flush()
                assert second.communicate(timeout=DEADLINE)[0] == "pytest ran; oracle: there\n"
        assert first.wait(DEADLINE) == second.returncode == 0
    assert len(checkout.calls("install")) == 1


# --- programs that tests drive --------------------------------------------------------------------


def test_programs_that_are_missing_are_told_and_in_ci_a_must(checkout: Checkout) -> None:
    checkout.remove("htop", "tmux")
    run = checkout.run("test")
    assert_fine(run)
    assert "tmux htop: not installed; what needs them is skipped" in run.stdout
    run = checkout.run("test", CI="true")
    assert run.returncode == 1
    assert "tmux htop: not installed" in run.stderr
    assert "pytest ran" not in run.stdout


def test_root_gets_missing_programs_installed(checkout: Checkout) -> None:
    as_root(checkout)
    checkout.remove("htop", "tmux")
    assert_fine(checkout.run("test", CI="true"))
    assert checkout.calls("apt-get") == [
        "apt-get update -q",
        "apt-get install -q --yes --no-install-recommends tmux htop",
    ]


# --- the agent programs ---------------------------------------------------------------------------


def test_agent_programs_are_fetched_where_they_are_missing(checkout: Checkout) -> None:
    run = checkout.run("test", STUB_AGENTS="missing")
    assert_fine(run)
    assert "fetching those that adapters are tested with" in run.stdout
    assert [call.split(" ")[2:] for call in checkout.calls("programs")] == [
        ["tests.agents.programs", "--check"],
        ["tests.agents.programs"],
    ]
    run = checkout.run("test", "tests/agents", "--all-agents")
    assert_fine(run)
    assert "fetching" not in run.stdout
    assert [call.split(" ")[3:] for call in checkout.calls("programs")] == [["--check", "--all"]]


@pytest.mark.parametrize("arguments", [("test", "tests/unit", "-k", "house"), ("bench",), ("demo",)])
def test_agent_programs_are_not_fetched_for_what_does_not_run_them(
    checkout: Checkout, arguments: Sequence[str]
) -> None:
    assert_fine(checkout.run(*arguments, STUB_AGENTS="missing"))
    assert checkout.calls("programs") == []


def test_without_agent_programs_the_tests_run_and_in_ci_they_are_a_must(checkout: Checkout) -> None:
    run = checkout.run("test", STUB_AGENTS="refused")
    assert_fine(run)
    assert "claude: npm found no network; what needs them is skipped" in run.stdout
    run = checkout.run("test", STUB_AGENTS="refused", CI="true")
    assert run.returncode == 1
    assert "agent programs cannot be had: claude: npm found no network" in run.stderr
    assert "pytest ran" not in run.stdout


def test_root_gets_node_where_agent_programs_need_it(checkout: Checkout) -> None:
    as_root(checkout)
    assert_fine(checkout.run("test", STUB_AGENTS="missing", CI="true"))
    assert checkout.calls("apt-get") == [
        "apt-get update -q",
        "apt-get install -q --yes --no-install-recommends nodejs npm",
    ]


# --- the oracle ----------------------------------------------------------------------------------


def test_without_the_oracle_the_tests_run_and_are_told_why(checkout: Checkout) -> None:
    run = checkout.run("test", STUB_NO_ORACLE="1")
    assert_fine(run)
    assert "its tests will be skipped" in run.stdout
    assert "libgirepository1.0-dev" in run.stdout
    assert "python3.11-dev" in run.stdout
    assert "pytest ran; oracle: pydbus needs system packages" in run.stdout


def test_root_gets_the_oracle_built(checkout: Checkout) -> None:
    as_root(checkout)
    run = checkout.run("test", STUB_NO_ORACLE="unbuilt", CI="true")
    assert_fine(run)
    assert "pytest ran; oracle: there" in run.stdout
    [update, install] = checkout.calls("apt-get")
    assert (update, install.split(" ")[-3:]) == (
        "apt-get update -q",
        ["libcairo2-dev", "gir1.2-glib-2.0", "python3.11-dev"],
    )


def test_an_oracle_that_cannot_be_imported_is_not_there(checkout: Checkout) -> None:
    as_root(checkout)
    run = checkout.run("test", STUB_NO_ORACLE="1")
    assert_fine(run)
    assert "cannot be imported: ImportError: no typelib" in run.stdout


def test_a_failed_build_of_the_oracle_is_not_tried_each_time(checkout: Checkout) -> None:
    as_root(checkout)
    # pip succeeds for the test tools, then fails for the oracle alone.
    checkout.program(
        "python3.11",
        PYTHON.replace('case "${STUB_PIP:-}" in', 'case "$*" in *pydbus*) exit 1 ;; esac; case x in'),
    )
    for _ in range(2):
        run = checkout.run("test", STUB_NO_ORACLE="1")
        assert_fine(run)
        assert "pytest ran; oracle: pydbus==0 could not be built" in run.stdout
    assert len([call for call in checkout.calls("install") if "pydbus" in call]) == 1


@pytest.mark.parametrize("root", [False, True])
def test_in_ci_the_oracle_is_a_must(checkout: Checkout, root: bool) -> None:
    if root:
        as_root(checkout)
        checkout.program("apt-get", RECORD + "exit 100\n")
    for _ in range(2):
        run = checkout.run("test", STUB_NO_ORACLE="1", CI="true")
        assert run.returncode == 1
        assert "the oracle tests cannot run" in run.stderr
        assert "pytest ran" not in run.stdout
