"""The real agent programs: installed once into a cache outside the checkout, configured for a model server.

python -m tests.agents.programs [--all] [NAME ...] installs them and prints progress. Standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Config = Mapping[str, str]
_ARCH = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_STAMP = "installed.json"
_RUN_MARK = "SESSIOND_TEST_RUN"
INSTALL_TIMEOUT = 300.0
KEY = "dummy"
MODEL = "fake-model"


class ProgramsUnavailable(Exception):
    """A program cannot be had here; the message says why."""


@dataclass(frozen=True)
class Package:
    """One npm package that holds a program; ``node`` is the major version that runs it (0: it is native)."""

    name: str
    npm: str
    version: str
    program: str
    node: int = 0
    ci: bool = True

    @property
    def folder(self) -> Path:
        """Where it is installed."""
        return cache() / f"{self.name}-{self.version}-{platform.system().lower()}-{_ARCH}"

    @property
    def path(self) -> Path:
        """The program."""
        return self.folder / "node_modules/.bin" / self.program


# Given by each package's own file: `node_modules/.bin` has no link for it.
NODE = Package("node", f"node-{platform.system().lower()}-{_ARCH}", "24.21.0", "node")

PACKAGES: Mapping[str, Package] = {
    one.name: one
    for one in (
        Package("claude", "@anthropic-ai/claude-code", "2.1.329", "claude"),
        Package("codex", "@openai/codex", "0.169.0", "codex", node=18),
        Package("opencode", "opencode-ai", "1.18.33", "opencode"),
        # Later ones cannot be installed.
        Package("pi", "@earendil-works/pi-coding-agent", "0.87.1", "pi", node=22),
        Package("gemini", "@google/gemini-cli", "0.61.0", "gemini", node=20, ci=False),
        Package("openclaw", "openclaw", "2026.9.6", "openclaw", node=24, ci=False),
    )
}


@functools.cache
def started_with() -> Mapping[str, str]:
    """The environment this process was started with: tests are given a home of their own since."""
    try:
        raw = Path("/proc/self/environ").read_bytes()
    except OSError:
        return dict(os.environ)
    pairs = (one.partition(b"=") for one in raw.split(b"\0") if b"=" in one)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def cache() -> Path:
    """The folder that programs are installed in."""
    given = started_with()
    if named := given.get("SESSIOND_AGENTS_CACHE"):
        return Path(named)
    if base := given.get("XDG_CACHE_HOME"):
        return Path(base) / "sessiond-agents"
    # On disk, where the other is often memory: it holds over a gigabyte.
    base = "/var/tmp" if os.access("/var/tmp", os.W_OK) else given.get("TMPDIR") or "/tmp"
    return Path(base) / f"sessiond-agents-{os.getuid()}"


# ---- installing ------------------------------------------------------------------------------


def npm() -> str:
    """Path of npm. Raises ProgramsUnavailable."""
    path = given_path()
    found = shutil.which("npm", path=path)
    if not found or not shutil.which("node", path=path):
        raise ProgramsUnavailable("node and npm are not installed (Debian's packages nodejs and npm)")
    return found


def given_path() -> str:
    """Where programs are searched."""
    return started_with().get("PATH") or os.defpath


@functools.cache
def _system_node() -> tuple[str, int]:
    """Path and major version of the system's node; empty and 0 where there is none."""
    found = shutil.which("node", path=given_path())
    if not found:
        return "", 0
    done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=120, check=False)
    major = done.stdout.strip().lstrip("v").partition(".")[0]
    return found, int(major) if major.isdigit() else 0


def node_for(package: Package) -> str:
    """Path of a node that runs a package's program, empty where it needs none; installs one where the
    system's is too old. Raises ProgramsUnavailable."""
    if not package.node:
        return ""
    path, major = _system_node()
    if major >= package.node:
        return path
    return str(ensure(NODE) / "node_modules" / NODE.npm / "bin/node")


def _has_node(package: Package) -> bool:
    return _system_node()[1] >= package.node or _good(NODE)


def ensure(package: Package) -> Path:
    """Its folder, installed if it was not. Whole or not at all, by one process at a time. Raises
    ProgramsUnavailable."""
    if _good(package):
        return package.folder
    _make(cache())
    with _locked(cache() / f".{package.folder.name}.lock"):
        if not _good(package):
            _install(package)
    return package.folder


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ProgramsUnavailable(f"the cache cannot be made: {error}") from error
    if folder.stat().st_uid != os.getuid():
        raise ProgramsUnavailable(f"{folder} belongs to somebody else: name another in SESSIOND_AGENTS_CACHE")


def _entry(package: Package, folder: Path) -> Path:
    """The file that is executed."""
    if package is NODE:
        return folder / "node_modules" / package.npm / "bin/node"
    return folder / "node_modules/.bin" / package.program


def _facts(package: Package, folder: Path) -> dict[str, object]:
    """What must be the same at each use."""
    entry = _entry(package, folder)
    manifest = json.loads((folder / "node_modules" / package.npm / "package.json").read_bytes())
    size = entry.stat().st_size
    real = os.path.relpath(os.path.realpath(entry), os.path.realpath(folder))
    if not os.access(entry, os.X_OK) or not size:
        raise ProgramsUnavailable(f"{entry} is no program")
    return {
        "npm": package.npm,
        "version": manifest["version"],
        "entry": real,
        "size": size,
    }


def _good(package: Package) -> bool:
    try:
        stamp = json.loads((package.folder / _STAMP).read_bytes())
        return bool(stamp == _facts(package, package.folder) and stamp["version"] == package.version)
    except (OSError, ValueError, KeyError, ProgramsUnavailable):
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _install(package: Package) -> None:
    """With the lock held."""
    program = npm()
    final = package.folder
    # Left by an installation that was killed, or no longer what was installed.
    for old in (*final.parent.glob(f".{final.name}-draft-*"), final):
        shutil.rmtree(old, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{final.name}-draft-", dir=final.parent))
    try:
        draft.chmod(0o755)
        done = _run_npm(program, draft, f"{package.npm}@{package.version}", node_for(package))
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise ProgramsUnavailable(f"npm could not install {package.npm}: " + " / ".join(lines[-6:]))
        facts = _facts(package, draft)
        if facts["version"] != package.version:
            raise ProgramsUnavailable(
                f"npm installed {facts['version']} of {package.npm}: not what was asked for"
            )
        (draft / _STAMP).write_text(json.dumps(facts))
        draft.rename(final)
    except (OSError, KeyError, ValueError) as error:
        raise ProgramsUnavailable(f"{package.npm} cannot be installed: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _run_npm(program: str, folder: Path, what: str, node: str) -> subprocess.CompletedProcess[str]:
    # A project of its own: npm would search for one above.
    (folder / "package.json").write_text('{"private": true}\n')
    command = [program, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--no-package-lock"]
    command += [
        "--no-update-notifier",
        "--fetch-retries=2",
        "--fetch-timeout=60000",
        "--loglevel=error",
        what,
    ]
    given = {name: value for name, value in started_with().items() if name != "NODE_OPTIONS"}
    if node:
        # What it runs after unpacking asks which node it is.
        given["PATH"] = f"{Path(node).parent}:{given_path()}"
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=given,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=INSTALL_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramsUnavailable(f"npm took over {INSTALL_TIMEOUT:g} s for {what}") from error


# ---- configuring -----------------------------------------------------------------------------


def _claude(home: Path, url: str, folders: Sequence[str]) -> Config:
    _write_json(
        home / ".claude.json",
        {
            "hasCompletedOnboarding": True,
            "lastOnboardingVersion": "99.0.0",
            "theme": "dark",
            "autoUpdates": False,
            "customApiKeyResponses": {"approved": [KEY], "rejected": []},
            "bypassPermissionsModeAccepted": True,
            "projects": {
                folder: {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
                for folder in folders
            },
        },
    )
    # Else it judges calls of tools by itself and asks nobody, or asks whether it may after the first turn.
    permissions = {"defaultMode": "default", "disableAutoMode": "disable"}
    _write_json(home / ".claude/settings.json", {"permissions": permissions})
    return {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": KEY,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "CLAUDE_CODE_MAX_RETRIES": "0",
    }


def _codex(home: Path, url: str, folders: Sequence[str]) -> Config:
    projects = "".join(f'[projects.{json.dumps(folder)}]\ntrust_level = "trusted"\n' for folder in folders)
    _write(
        home / ".codex/config.toml",
        f"""\
model = "{MODEL}"
model_provider = "fake"
check_for_update_on_startup = false

[model_providers.fake]
name = "Fake"
base_url = "{url}/v1"
env_key = "FAKE_API_KEY"
wire_api = "responses"
supports_websockets = false
request_max_retries = 0
stream_max_retries = 0

[features]
daemon_auto_start = false

[analytics]
enabled = false

[feedback]
enabled = false

{projects}""",
    )
    return {"FAKE_API_KEY": KEY}


def _opencode(home: Path, url: str, folders: Sequence[str]) -> Config:
    _write_json(
        home / ".config/opencode/opencode.json",
        {
            "autoupdate": False,
            "share": "disabled",
            "model": f"fake/{MODEL}",
            "small_model": f"fake/{MODEL}",
            "provider": {
                "fake": {
                    "npm": "@ai-sdk/openai-compatible",
                    "name": "Fake",
                    "options": {"baseURL": f"{url}/v1", "apiKey": KEY},
                    "models": {
                        MODEL: {
                            "name": "Fake model",
                            "tool_call": True,
                            "limit": {"context": 128000, "output": 8192},
                            "cost": {"input": 1, "output": 2},
                        }
                    },
                }
            },
        },
    )
    return {
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
    }


def _pi(home: Path, url: str, folders: Sequence[str]) -> Config:
    cost = {"input": 1, "output": 2, "cacheRead": 0, "cacheWrite": 0}
    model = {"id": MODEL, "name": "Fake model", "reasoning": False, "input": ["text"], "cost": cost}
    model |= {"contextWindow": 128000, "maxTokens": 8192}
    provider = {"baseUrl": f"{url}/v1", "api": "openai-completions", "apiKey": KEY, "models": [model]}
    _write_json(home / ".pi/agent/models.json", {"providers": {"fake": provider}})
    settings = {"defaultProvider": "fake", "defaultModel": MODEL, "quietStartup": True}
    _write_json(home / ".pi/agent/settings.json", {**settings, "enableInstallTelemetry": False})
    return {"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1", "PI_TELEMETRY": "0"}


def _gemini(home: Path, url: str, folders: Sequence[str]) -> Config:
    _write_json(
        home / ".gemini/settings.json",
        {
            "general": {"disableAutoUpdate": True, "disableUpdateNag": True, "enableAutoUpdate": False},
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
            "ide": {"enabled": False},
        },
    )
    _write_json(home / ".gemini/trustedFolders.json", dict.fromkeys(folders, "TRUST_FOLDER"))
    return {"GEMINI_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": url, "GEMINI_TELEMETRY_ENABLED": "false"}


def _openclaw(home: Path, url: str, folders: Sequence[str]) -> Config:
    model = {
        "id": MODEL,
        "name": "Fake model",
        "reasoning": False,
        "input": ["text"],
        "contextWindow": 128000,
    }
    model |= {"maxTokens": 8192, "cost": {"input": 1, "output": 2, "cacheRead": 0, "cacheWrite": 0}}
    provider = {"baseUrl": f"{url}/v1", "apiKey": KEY, "api": "openai-completions", "models": [model]}
    _write_json(
        home / ".openclaw/openclaw.json",
        {
            "models": {"mode": "merge", "providers": {"fake": provider}},
            "agents": {"defaults": {"model": {"primary": f"fake/{MODEL}"}, "workspace": str(home / "claw")}},
            "update": {"checkOnStart": False},
        },
    )
    return {"OPENCLAW_DISABLE_UPDATE_CHECK": "1"}


_CONFIGURE: Mapping[str, Callable[[Path, str, Sequence[str]], Config]] = {
    "claude": _claude,
    "codex": _codex,
    "opencode": _opencode,
    "pi": _pi,
    "gemini": _gemini,
    "openclaw": _openclaw,
}


@dataclass(frozen=True)
class Program:
    """One that can be run: ``argv`` begins a command line, ``env`` is its whole environment."""

    name: str
    version: str
    argv: tuple[str, ...]
    env: Mapping[str, str]

    def command(self, *words: str) -> list[str]:
        """The command line with these words."""
        return [*self.argv, *words]


def configure(
    package: Package, home: Path, url: str, folders: Sequence[str | Path], *, inside: str = ""
) -> Program:
    """Write its configuration into a home so that it trusts these folders and asks the model server alone.
    ``inside`` is the home's path as the program sees it, where that is another."""
    node = node_for(package)
    ensure(package)
    seen = inside or str(home)
    own = _CONFIGURE[package.name](home, url, [os.fspath(folder) for folder in folders])
    (home / "tmp").mkdir(exist_ok=True)
    places = [str(package.path.parent), *([str(Path(node).parent)] if node else [])]
    env = {
        "HOME": seen,
        # Killed, they leave what they unpacked there.
        "TMPDIR": f"{seen}/tmp",
        "USER": "tester",
        "LOGNAME": "tester",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PATH": ":".join([*places, "/usr/local/bin", "/usr/bin", "/bin"]),
        "NO_PROXY": "127.0.0.1,localhost",
        **own,
    }
    if mark := os.environ.get(_RUN_MARK):
        env[_RUN_MARK] = mark
    return Program(package.name, package.version, (str(package.path),), env)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _write_json(path: Path, value: object) -> None:
    _write(path, json.dumps(value, indent=2))


# ---- ahead of the tests ----------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    """Install what tests need; exit status 1 where something could not be had."""
    parser = argparse.ArgumentParser(prog="python -m tests.agents.programs", description=__doc__)
    parser.add_argument("--all", action="store_true", help="those that CI does not run, too")
    parser.add_argument(
        "--check", action="store_true", help="install nothing: exit status 1 if some are missing"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PACKAGES))
    options = parser.parse_args(words)
    unknown = set(options.names) - set(PACKAGES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    chosen = [
        one
        for one in PACKAGES.values()
        if (one.name in options.names if options.names else one.ci or options.all)
    ]

    if options.check:
        return 0 if all(_good(one) and _has_node(one) for one in chosen) else 1

    def have(package: Package) -> str:
        began = time.monotonic()
        try:
            node_for(package)
            ensure(package)
        except ProgramsUnavailable as error:
            return f"{package.name}: {error}"
        print(f"{package.name} {package.version}: {time.monotonic() - began:.1f} s", flush=True)
        return ""

    with ThreadPoolExecutor(len(chosen)) as pool:
        problems = [problem for problem in pool.map(have, chosen) if problem]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
