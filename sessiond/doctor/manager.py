"""The user's manager: whether it runs, and for how long."""

from __future__ import annotations

from collections.abc import Iterator

from sessiond.doctor.machine import Machine
from sessiond.doctor.row import CheckRow, failure, ok, warning


def user_manager(machine: Machine) -> Iterator[CheckRow]:
    """Whether systemd's manager of this user answers."""
    answer = machine.ask("systemctl", "--user", "is-system-running")
    state = answer.out.split("\n")[-1]
    if answer.unknown:
        yield warning("user_manager", f"not known: {answer.unknown}", "")
    elif state in ("running", "degraded", "starting", "initializing", "maintenance"):
        yield ok("user_manager", f"systemd's manager of {machine.user} is {state}")
    else:
        yield failure("user_manager", f"no user manager of systemd answers: {answer.said}", "")


def linger(machine: Machine) -> Iterator[CheckRow]:
    """Whether the manager lives on without a login."""
    answer = machine.ask("loginctl", "show-user", "--property=Linger", "--value", str(machine.uid))
    if answer.unknown:
        yield warning("linger", f"not known: {answer.unknown}", "")
    elif answer.out == "yes":
        yield ok("linger", "on: sessions live on without a login, and start at boot")
    else:
        yield failure(
            "linger",
            "OFF: every session is killed when you log out, and none starts at boot",
            f"sudo loginctl enable-linger {machine.user}",
        )
