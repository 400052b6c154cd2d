"""The rules of the house: format, lint, types, layers, protos, and what may lie in the tree."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import sessiond
from sessiond.cli.exits import exit_code
from sessiond.cli.main import SECTIONS
from sessiond.config import SETTINGS
from sessiond.errors import BY_KIND

ROOT = Path(__file__).resolve().parents[2]
TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "packaging",
    "protos",
    "pyproject.toml",
    "sessiond",
    "tests",
    "units",
}
BUILD_OUTPUT = {"build", "dist"}
LONGEST_FILE = 600
LEFTOVERS = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|^(?:<{7}|>{7})")
# Made-up users are fine in tests.
OWN_PATHS = re.compile(r"(?<![\w.}])/(?:root|work)/")
HOME_PATHS = re.compile(r"(?<![\w.}])/(?:home|Users)/[a-z]\w*/")


def tool(name: str) -> str:
    """Return the path of a program that is installed beside this interpreter."""
    return str(Path(sys.executable).with_name(name))


def check(*command: str) -> None:
    """Run a checker in the checkout; when it objects, fail with what it says and nothing else."""
    environment = os.environ | {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "160"}
    environment.pop("FORCE_COLOR", None)
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if run.returncode != 0:
        shown = " ".join([Path(command[0]).name, *command[1:]])
        pytest.fail(f"{shown} (exit status {run.returncode})\n{run.stdout}", pytrace=False)


def tree() -> Iterator[Path]:
    """Yield every file of the project, without what tools and builds leave."""
    for folder, names, files in os.walk(ROOT):
        here = Path(folder)
        top = here == ROOT
        names[:] = [
            name
            for name in names
            if name != "__pycache__"
            and not name.endswith(".egg-info")
            and not (name.startswith(".") and name != ".ci")
            and not (top and name in BUILD_OUTPUT)
        ]
        yield from (here / name for name in files)


def texts() -> Iterator[tuple[str, str]]:
    """Yield (path in the tree, text) of every file of the project that people write."""
    for path in sorted(tree()):
        name = str(path.relative_to(ROOT))
        if "/_generated/" not in name:
            yield name, path.read_text(encoding="utf-8")


def report(offences: list[str], rule: str) -> None:
    if offences:
        pytest.fail(f"{rule}:\n  " + "\n  ".join(offences), pytrace=False)


# --- Python --------------------------------------------------------------------------------------


def test_lint() -> None:
    check(tool("ruff"), "check", "--no-fix", "--output-format=concise")


def test_format() -> None:
    check(tool("ruff"), "format", "--check", "--diff")


def test_types() -> None:
    check(sys.executable, "-m", "mypy", "--no-error-summary")


def test_layers() -> None:
    check(tool("lint-imports"), "--no-logo", "--no-cache")


def test_model_needs_the_standard_library_alone() -> None:
    offences = []
    for path in sorted((ROOT / "sessiond/model").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            else:
                continue
            offences += [
                f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
                for name in imported
                if name.split(".")[0] not in sys.stdlib_module_names | {"sessiond"}
            ]
    report(offences, "the model may import the standard library and sessiond only")


def test_no_python_file_is_too_long() -> None:
    lengths = {name: text.count("\n") for name, text in texts() if name.endswith(".py")}
    offences = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > LONGEST_FILE]
    report(offences, f"no Python file has more than {LONGEST_FILE} lines")


def test_errors_that_people_meet_say_what_to_do() -> None:
    """What a person can put right has a hint; a bare SessiondError is a failure of ours."""
    told = {kind.__name__ for kind in BY_KIND.values()} - {"SessiondError"} | {"UsageFault"}
    offences = []
    for package in ("agents", "cli", "daemon", "rpc", "supervisor"):
        for path in sorted((ROOT / "sessiond" / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                # One that is handed keywords is built from another error.
                if node.func.id in told and not {"hint", None} & {word.arg for word in node.keywords}:
                    offences.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    report(offences, "an error has no hint")


def channels_of_their_own(source: str) -> Iterator[ast.Call]:
    """Yield each opening of a gRPC channel whose options do not hold CHANNEL_OPTIONS."""
    nodes = list(ast.walk(ast.parse(source)))
    holding = {"CHANNEL_OPTIONS"}

    def holds(value: ast.expr) -> bool:
        return any(isinstance(node, ast.Name) and node.id in holding for node in ast.walk(value))

    for node in nodes:
        if isinstance(node, ast.Assign) and holds(node.value):
            holding |= {name.id for name in node.targets if isinstance(name, ast.Name)}
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        options = [word.value for word in node.keywords if word.arg == "options"]
        if called in ("insecure_channel", "secure_channel") and not any(map(holds, options)):
            yield node


def test_every_channel_is_opened_with_the_one_set_of_options() -> None:
    offences = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, text in texts()
        if name.endswith(".py")
        for node in channels_of_their_own(text)
    ]
    report(
        offences, "options of a channel are not those of sessiond/rpc/channel.py, with which no call spins"
    )


@pytest.mark.parametrize(
    ("source", "offends"),
    [
        ("grpc.insecure_channel(target)", True),
        ("grpc.aio.insecure_channel(target, options=[('grpc.enable_retries', 1)])", True),
        ("insecure_channel(target, options=CHANNEL_OPTIONS)", False),
        ("more = (*CHANNEL_OPTIONS, ('a', 1))\ngrpc.insecure_channel(target, options=more)", False),
        ("more = (('a', 1),)\ngrpc.insecure_channel(target, options=more)", True),
    ],
)
def test_a_channel_with_options_of_its_own_is_found(source: str, offends: bool) -> None:
    assert bool(list(channels_of_their_own(source))) is offends


# --- protos --------------------------------------------------------------------------------------


def test_protos_are_linted_and_commented() -> None:
    check(tool("buf"), "lint", "protos")


def test_protos_are_formatted() -> None:
    check(tool("buf"), "format", "--diff", "--exit-code", "protos")


def test_generated_code_is_what_the_protos_say() -> None:
    check(sys.executable, "packaging/protos", "--check")


# --- the tree ------------------------------------------------------------------------------------


def test_shell_scripts_parse() -> None:
    scripts = [name for name, text in texts() if re.match(r"#!.*\b(?:ba)?sh\b", text)]
    assert "packaging/bootstrap" in scripts
    for script in scripts:
        check("bash", "-n", script)
        assert os.access(ROOT / script, os.X_OK), f"{script} is not executable"


def test_top_level_holds_only_what_was_agreed() -> None:
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    strangers = {name for name in names - TOP_LEVEL - BUILD_OUTPUT if not name.endswith(".egg-info")}
    assert not strangers
    assert not TOP_LEVEL - names


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    """Return every line that the pattern is found in, this file apart: it holds what it looks for."""
    return [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line) and ROOT / name != Path(__file__)
    ]


def test_no_leftover_markers() -> None:
    report(lines_matching(LEFTOVERS), "markers of unfinished work")


def test_no_paths_of_one_machine() -> None:
    homes = [line for line in lines_matching(HOME_PATHS) if not line.startswith("tests/")]
    report(lines_matching(OWN_PATHS) + homes, "paths that exist on one machine only")


def test_the_version_is_told_once_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == sessiond.__version__


def test_changelog_tells_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    section = re.search(rf"^## {re.escape(sessiond.__version__)}\b.*?(?=^## |\Z)", text, re.M | re.S)
    assert section is not None
    assert re.search(r"^- \S", section.group(), re.MULTILINE), "no entry below the version's heading"


def test_patterns_of_the_tree_do_match() -> None:
    """A pattern that matches nothing would let everything pass."""
    assert LEFTOVERS.search("# TODO: later")
    assert LEFTOVERS.search("<<<<<<< HEAD")
    assert not LEFTOVERS.search("mktemp sd.XXXXXX")
    assert OWN_PATHS.search("see /root/notes")
    assert not OWN_PATHS.search("$HOME/root/x ${upper}/root/x")
    assert HOME_PATHS.search('"/home/somebody/x"')
    assert not HOME_PATHS.search("/home/*/x")


# --- what the README says ------------------------------------------------------------------------


def test_readme_names_every_verb_and_no_other() -> None:
    readme = (ROOT / "README.md").read_text()
    table = re.search(r"^\| what for \| verbs \|\n.*?\n\n", readme, re.MULTILINE | re.DOTALL)
    assert table is not None
    told = set(re.findall(r"`([a-z]+)`", table.group()))
    verbs = {verb for section in SECTIONS.values() for verb in section}
    assert told == verbs
    assert set(re.findall(r"^(?:.*`)?sessionctl ([a-z]+)", readme, re.MULTILINE)) <= verbs


def test_readme_tells_every_setting_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(\w+\.\w+)` \| (.*?) \| (.*?) \|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert [key for key, _, _ in rows] == [setting.key for setting in SETTINGS]
    for (key, default, _), setting in zip(rows, SETTINGS, strict=True):
        if isinstance(setting.default, str):
            assert re.split(r"[:,]", setting.default) == default.replace("`", "").split(", "), key


def test_readme_tells_every_exit_code() -> None:
    codes = {
        int(code) for code in re.findall(r"^\| (\d+) \| ", (ROOT / "README.md").read_text(), re.MULTILINE)
    }
    assert codes == {0, 2, 130} | {exit_code(kind("x", "x")) for kind in BY_KIND.values()}
