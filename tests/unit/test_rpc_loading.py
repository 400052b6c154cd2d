"""What generated code brings with it when it is loaded."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from sessiond.rpc._generated.v1 import types_pb2
print("google.protobuf.text_format" in sys.modules)
made = types_pb2.Session(id="x", labels={"team": "web"})
made.created_at.FromJsonString("2030-01-02T03:04:05.006Z")
read = types_pb2.Session.FromString(made.SerializeToString())
print(read == made, read.created_at.ToJsonString(), "google.protobuf.text_format" in sys.modules)
from google.protobuf.internal import python_message
print(python_message.GeneratedProtocolMessageType.__name__, "google.protobuf.text_format" in sys.modules)
"""


def test_messages_are_made_without_what_makes_them_in_python_which_is_there_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "False",
        "True 2030-01-02T03:04:05.006Z False",
        "GeneratedProtocolMessageType True",
    ], done.stdout + done.stderr


def test_the_implementation_in_python_works_as_well() -> None:
    script = SCRIPT.replace(
        "import sys", "import os, sys\nos.environ['PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION'] = 'python'", 1
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[1].startswith("True 2030-01-02T03:04:05.006Z"), done.stdout + done.stderr
