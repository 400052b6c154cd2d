"""What a program prints ends the process that draws it: the session daemon comes back, and goes on."""

from __future__ import annotations

from sessiond.errors import Unreachable
from sessiond.model.unit import daemon_unit
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.system.agents_case import Crew, crew_of, state
from tests.system.product import Product, until

# An emulator that panics at a word; every Python process of the unit reads this before anything else.
DEADLY = """
import os
from sessiond.terminal import emulator

_real = emulator._maker

def _deadly():
    kind = _real()

    class Deadly(kind):
        def feed(self, data):
            if b"POISON" in data:
                os.abort()
            return super().feed(data)

    return Deadly

emulator._maker = _deadly
"""

PRINT = r"""
stty raw -echo
printf 'before\r\nPOISON after\r\n'
n=0
while [ ! -e "$1" ]; do n=$((n + 1)); printf '%d\r\n' $n; sleep 0.02; done
printf 'the end'
"""


def test_output_that_ends_the_emulators_process_ends_no_session(product: Product) -> None:
    session = product.new()
    folder, unit = session["path"], daemon_unit(session["id"])
    product.write(f"{folder}/sitecustomize.py", DEADLY)
    product.user_unit_drop_in(unit, f"[Service]\nEnvironment=PYTHONPATH={folder}\n")
    product.ctl("start", session["id"])
    with crew_of(product, session["id"]) as crew:
        deadly = crew.sh(PRINT.replace("$1", f"{folder}/stop"), tty=True)
        quiet = crew.sh("stty raw -echo; printf 'all is well\\r\\n'; exec cat", tty=True)
        until(lambda: "all is well" in _screen(crew, quiet).content, "the other one's screen")
        degraded = until(lambda: _survived(crew, deadly), "a screen of what ends the emulator's process")
        assert degraded.degraded
        # It answers a moment before it says that it is ready.
        product.wait(session["id"], "active")
        after = product.host.show(unit)
        assert after["ActiveState"] == "active"
        # No more deaths than it takes to be sure.
        assert int(after["NRestarts"]) == 2
        for _ in range(5):
            assert _screen(crew, deadly).degraded
        assert product.host.show(unit)["MainPID"] == after["MainPID"]
        other = _screen(crew, quiet)
        assert (other.degraded, other.content.splitlines()[0]) == (False, "all is well")
        assert crew.call("SendInput", agent=quiet.id, parts=[pb.InputPart(data=b"typed")]).bytes == 5
        until(lambda: "typed" in _screen(crew, quiet).content, "what was typed")
        product.host.path(f"{folder}/stop").touch()
        ended = crew.wait(deadly.id)
        assert (state(ended), ended.exit_status) == ("completed", 0)
        record = product.host.path(f"{crew.folder(deadly)}/record").read_bytes()
        count = record.count(b"\r\n") - 2
        numbers = b"".join(b"%d\r\n" % number for number in range(1, count + 1))
        assert record == b"before\r\nPOISON after\r\n" + numbers + b"the end"
        # Nor does its last screen, which is made anew from the record.
        assert _screen(crew, deadly).degraded
        assert product.host.show(unit)["NRestarts"] == "2"
        told = [line for line in product.journal().splitlines() if "ends its process" in line]
        assert len(told) == 1


def _screen(crew: Crew, agent: pb.Agent) -> pb.GetScreenResponse:
    return crew.call("GetScreen", agent=agent.id)  # type: ignore[no-any-return]


def _survived(crew: Crew, agent: pb.Agent) -> pb.GetScreenResponse | None:
    try:
        return _screen(crew, agent)
    except Unreachable:
        # The daemon ended under the call.
        return None
