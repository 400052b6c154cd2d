"""Bad days that requests about agents make: garbage in every field, races for one of them, and crowds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import pytest

from sessiond.errors import SessiondError
from sessiond.model.unit import daemon_unit
from tests.system.agents_case import Crew, crew_of, state
from tests.system.product import HOME, PATIENCE, STATE, Product, until

FOR_EVER = "while :; do sleep 1000; done"
MANY = 200
BIG = "x" * (1 << 20)


@pytest.fixture
def crew(product: Product) -> Iterator[Crew]:
    """The agents of a session that is active."""
    with crew_of(product, product.started()["id"]) as made:
        yield made


# What no request may bring in, by field of SpawnAgentRequest.
_GARBAGE: dict[str, list[Any]] = {
    "command": [
        [],
        [""],
        ["\0"],
        ["true\0"],
        ["true", "a\0b"],
        ["a" * 5000],
        ["/"],
        ["."],
        [BIG],
        ["true", BIG],
    ],
    "name": ["a\0b", "a/b", " ", ".", "..", "-x", "\n", "\x1b[31m", "ü" * 65, "a" * 65, BIG, "../../../etc"],
    "environment": [{"A=B": "c"}, {"A\0": "c"}, {"A": "b\0c"}, {"": "x"}, {"A": BIG}, {BIG: "a"}],
    "set_environment": [{"A=B": "c"}, {"A\0": "c"}, {"A": "b\0c"}, {"": "x"}, {"A": BIG}],
    "cwd": ["\0", "/tmp\0/x"],
    "term": ["a b", "\0", "a" * 65, "\x1b[31m", "../../x", BIG],
    "group": ["a/b", "\0", " ", "a" * 65, BIG],
    "labels": [
        {"": "x"},
        {"-": ""},
        {"a\0": "x"},
        {"a": "\0"},
        {BIG: "x"},
        {"a": BIG},
        {f"key-{number}": "" for number in range(10_000)},
    ],
    "properties": [
        {"ExecStart": "/bin/true"},
        {"MemoryMax": "lots"},
        {"MemoryMax": "\0"},
        {"": ""},
        {"Memory\nMax": "1G"},
        {BIG: "1"},
        {"MemoryMax": BIG},
        {"Slice": "system.slice"},
        {"User": "root"},
        {"KillMode": "none"},
    ],
    "stop_signal": ["NONSENSE", "0", "-1", "99999999999", "\0", BIG],
    "stop_timeout": [{"seconds": -1}, {"seconds": 1 << 40}, {"nanos": 5}],
    "timeout": [{"seconds": -5}, {"seconds": 315_576_000_000}],
    "umask": [0o7777, 0xFFFFFFFF],
    "columns": [1001, 0xFFFFFFFF],
    "rows": [1001, 0xFFFFFFFF],
    "restart": [4, 99, -1],
}


@pytest.mark.parametrize("through", ["daemon", "supervisor"])
def test_garbage_in_any_field_is_refused_with_a_code_and_starts_nothing(crew: Crew, through: str) -> None:
    product = crew.product
    pid = product.pid(crew.session)
    asked = crew if through == "daemon" else Crew(product, crew.session, product.socket)
    try:
        for field, values in _GARBAGE.items():
            for value in values:
                fields = {"command": ["true"], "tty": True, "environment": {"PATH": "/bin"}, field: value}
                with pytest.raises(SessiondError) as refused:
                    pytest.fail(f"{field}={str(value)[:80]!r} started {asked.call('SpawnAgent', **fields)}")
                said = refused.value
                assert said.code not in ("internal_error", "rpc_unknown", "rpc_internal"), (field, said.code)
                assert len(said.message) < 5000, field
                assert not {"\0", "\x1b"} & set(said.message), field
        assert asked.list(include_ended=True) == []
        words = ["\0", BIG, "../..", "a/b/c", "-", "*", " ", "\x1b]0;x\x07"]
        for method in ("GetAgent", "StopAgent", "KillAgent", "RestartAgent", "RemoveAgent", "GetScreen"):
            for word in words:
                with pytest.raises(SessiondError) as caught:
                    asked.call(method, agent=word)
                assert caught.value.code in ("agent_not_found", "agent_invalid", "name_invalid"), (
                    method,
                    word[:9],
                )
                assert len(caught.value.message) < 5000
        # Bytes that are no message at all.
        for method in ("SpawnAgent", "ListAgents", "BatchAgents", "SendInput", "ReadOutput"):
            for data in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x00" * 1000, b"\x0a\x02\xff\xfe"):
                call: Any = asked._channel.unary_unary(f"/sessiond.v1.AgentsService/{method}")
                with pytest.raises(grpc.RpcError):
                    call(data, timeout=PATIENCE)
    finally:
        if asked is not crew:
            asked.close()
    left = product.host.run(["sh", "-c", f"ls -A {STATE}/sessions/{crew.session}/agents 2>/dev/null || true"])
    assert left.stdout == ""
    assert not crew.loaded()
    assert product.pid(crew.session) == pid
    assert state(crew.wait(crew.sh("exit 0").id)) == "completed"
    nothing_kept(crew)


def nothing_kept(crew: Crew) -> None:
    """Wait until systemd holds no descriptor for the daemon: it is told to let go, and answers nothing."""
    unit = daemon_unit(crew.session)
    until(
        lambda: crew.product.host.show(unit, "NFileDescriptorStore")["NFileDescriptorStore"] == "0",
        "an empty descriptor store",
    )


# ---- races


def at_once(*deeds: Callable[[], Any]) -> list[Any]:
    """Do all of it at the same time; results or errors in the same order."""

    def done(deed: Callable[[], Any]) -> Any:
        try:
            return deed()
        except SessiondError as error:
            return error

    with ThreadPoolExecutor(len(deeds)) as pool:
        return list(pool.map(done, deeds))


@pytest.mark.parametrize("tty", [False, True])
def test_whoever_races_for_one_agent_it_ends_as_what_systemd_says(crew: Crew, tty: bool) -> None:
    allowed = {
        "agent_not_found",
        "agent_running",
        "agent_not_running",
        "agent_ended",
        "start_failed",
        "restart_interrupted",
    }
    verbs = ("StopAgent", "KillAgent", "RestartAgent", "RemoveAgent", "PauseAgent", "ResumeAgent")
    pairs = [(one, other) for number, one in enumerate(verbs) for other in verbs[number:]]
    other = Crew(crew.product, crew.session, crew.product.socket)
    try:
        for one, two in pairs:
            made = crew.sh(f"echo run; {FOR_EVER}", tty=tty)
            deeds = [partial(who.call, verb, agent=made.id) for who in (crew, other) for verb in (one, two)]
            outcomes = at_once(*deeds)
            odd = [
                said.code for said in outcomes if isinstance(said, SessiondError) and said.code not in allowed
            ]
            assert odd == [], (one, two)
            found = [agent for agent in crew.list(include_ended=True) if agent.id == made.id]
            if found and state(found[0]) in ("running", "paused", "starting"):
                pids = crew.pids(made)
                assert crew.get(made.id).pid in pids, (one, two)
                # At most one of it, whoever started it how often.
                assert len(pids) <= 2, (one, two, pids)
                crew.kill(made.id)
            elif found:
                assert not crew.pids(made), (one, two)
            if found:
                crew.call("RemoveAgent", agent=made.id)
    finally:
        other.close()
    crew.gone()
    assert crew.list(include_ended=True) == []
    left = crew.product.host.run(["ls", "-A", f"{STATE}/sessions/{crew.session}/agents"]).stdout
    assert left == ""
    nothing_kept(crew)


# ---- crowds


def test_a_full_descriptor_store_leaves_nothing_half_done(product: Product) -> None:
    session = product.started()["id"]
    unit = daemon_unit(session)
    product.user_unit_drop_in(unit, "[Service]\nFileDescriptorStoreMax=6\n")
    with crew_of(product, session) as crew:
        # More than there is room for, at once: those that do not fit are refused whole.
        said = at_once(*[lambda: crew.sh(FOR_EVER, tty=True) for _ in range(8)])
        refused = [one for one in said if isinstance(one, SessiondError)]
        made = [one for one in said if not isinstance(one, SessiondError)]
        assert {one.code for one in refused} == {"descriptor_store_full"}
        assert len(made) == 3
        folders = product.host.run(["ls", "-A", f"{STATE}/sessions/{session}/agents"]).stdout.split()
        assert sorted(folders) == sorted(one.id for one in made)
        assert len(crew.loaded()) == len(made)
        assert product.host.show(unit, "NFileDescriptorStore")["NFileDescriptorStore"] == "6"
        done = product.host.sessionctl("run", "-d", "-s", session, "--tty", "--", "true", check=False)
        assert done.returncode == 125
        assert "--no-tty" in done.stderr
        assert product.ctl("run", "-s", session, "--no-tty", "--", "echo", "fine") == "fine\n"
        crew.kill_daemon()
        assert {crew.wait(one.id, "running").pid for one in made} == {one.pid for one in made}


def test_a_stop_of_the_session_ends_two_hundred_agents(product: Product) -> None:
    config = f"{HOME}/.config/sessiond/config.toml"
    product.write(config, f"[agents]\nmax_per_session = {MANY}\n")
    try:
        session = product.started()["id"]
        with crew_of(product, session) as crew, ThreadPoolExecutor(16) as pool:
            began = time.monotonic()
            made = list(pool.map(lambda number: crew.sh(FOR_EVER, tty=bool(number % 2)), range(MANY)))
            started = time.monotonic() - began
            rows = json.loads(product.ctl("ps", "--json", session))
            assert {row["id"] for row in rows} == {one.id for one in made}
            assert {row["state"] for row in rows} == {"running"}
            assert len(product.processes(session)) > MANY
            began = time.monotonic()
            product.ctl("stop", session, timeout=2 * PATIENCE)
            print(f"{MANY} agents: started in {started:.1f} s, stopped in {time.monotonic() - began:.1f} s")
        assert product.processes(session) == []
        rows = json.loads(product.ctl("ps", "-a", "--json", session))
        assert len(rows) == MANY
        assert {(row["state"], row["signal"]) for row in rows} == {("terminated", "SIGTERM")}
    finally:
        product.host.run(["rm", config])
