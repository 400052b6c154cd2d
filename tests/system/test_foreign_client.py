"""A client that has nothing of ours: its own environment, grpcio and grpcio-reflection, and the socket."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.system.product import HOME, Product, daemon_unit

# Finds out by reflection what is served, lists, then watches until told that the session is active.
CLIENT = """
import json, sys
import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel("unix:" + sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
pool = DescriptorPool(database)

def method(service, name):
    found = pool.FindServiceByName(service).FindMethodByName(name)
    make = channel.unary_stream if found.server_streaming else channel.unary_unary
    answer = GetMessageClass(found.output_type)
    call = make(f"/{service}/{name}", GetMessageClass(found.input_type).SerializeToString, answer.FromString)
    return lambda **fields: call(GetMessageClass(found.input_type)(**fields), timeout=300)

def told(**what):
    print(json.dumps(what), flush=True)

told(services=sorted(database.get_services()))
health = method("grpc.health.v1.Health", "Check")
told(health=health(service="sessiond.v1.SessionsService").status)
listed = method("sessiond.v1.SessionsService", "ListSessions")()
told(sessions=[json_format.MessageToDict(one) for one in listed.sessions])
try:
    method("sessiond.v1.SessionsService", "StartSession")(session="no-such-session")
except grpc.RpcError as error:
    told(error=error.code().name, message=error.details())
stream = method("sessiond.v1.EventsService", "WatchEvents")()
assert next(stream).HasField("cursor")
told(watching=True)
for message in stream:
    event = json_format.MessageToDict(message.event)
    told(event=event)
    if event["kind"] == "session_started":
        break
"""


def _closure(*names: str) -> list[importlib.metadata.Distribution]:
    """Installed distributions and what they need, extras left out."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = list(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        needs = [need for need in found[name].requires or [] if "extra ==" not in need]
        todo += [match[0] for need in needs if (match := re.match(r"[A-Za-z0-9._-]+", need))]
    return list(found.values())


@pytest.fixture
def python(product: Product) -> str:
    """The interpreter of a fresh environment inside with these two packages alone; needs no network."""
    inside = f"{HOME}/foreign"
    folder = product.host.path(inside)
    venv.create(folder, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    for distribution in _closure("grpcio", "grpcio-reflection"):
        for file in distribution.files or []:
            source = Path(str(distribution.locate_file(file)))
            if ".." in file.parts or "__pycache__" in file.parts or not source.is_file():
                continue
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return f"{inside}/bin/python"


def test_it_has_nothing_of_ours(product: Product, python: str) -> None:
    program = "import importlib.metadata as m; print(*sorted(d.name for d in m.distributions()))"
    shown = product.host.run([python, "-I", "-c", program]).stdout.split()
    assert {name.lower().replace("_", "-") for name in shown} == {
        "grpcio",
        "grpcio-reflection",
        "protobuf",
        "typing-extensions",
    }
    ours = product.host.run([python, "-I", "-c", "import sessiond"], check=False)
    assert "No module named 'sessiond'" in ours.stderr


def test_it_lists_and_watches_through_reflection_alone(product: Product, python: str) -> None:
    made = product.new("--label", "team=web")
    socket = f"{product.host.runtime_dir}/sessiond/sessiond.sock"
    client = product.host.popen([python, "-I", "-W", "error", "-c", CLIENT, socket], stderr=subprocess.PIPE)
    assert client.stdout is not None
    said: dict[str, Any] = {}
    while "watching" not in said:
        line = client.stdout.readline()
        assert line, client.communicate()[1]
        said |= json.loads(line)
    assert {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "sessiond.v1.DiscoveryService",
        "sessiond.v1.EventsService",
        "sessiond.v1.SessionsService",
        "sessiond.v1.SystemService",
    } <= set(said["services"])
    assert said["health"] == 1
    [session] = said["sessions"]
    assert session == session | {
        "id": made["id"],
        "name": made["name"],
        "path": made["path"],
        "labels": {"team": "web"},
        "state": "SESSION_STATE_INACTIVE",
        "unit": daemon_unit(made["id"]),
    }
    assert said["error"] == "NOT_FOUND"
    assert "no-such-session" in str(said["message"])

    product.ctl("start", made["id"])
    out, err = client.communicate(timeout=120)
    assert client.returncode == 0, err
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert {event["session"] for event in events} == {made["id"]}
    changes = [event["fields"] for event in events if event["kind"] == "session_state_changed"]
    assert [(one["from"], one["to"]) for one in changes] == [("inactive", "starting"), ("starting", "active")]
    assert events[-1]["kind"] == "session_started"
