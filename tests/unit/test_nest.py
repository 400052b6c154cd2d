"""The nest's parts that need no systemd: records, plans, units, requirements."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from sessiond import nest
from sessiond.errors import InvalidArgument, NotFound, PermissionDenied, Unsupported
from sessiond.nest import cgroups, layout, lifecycle, record, requirements, units
from sessiond.nest.plan import BootPlan, Entry, GuestUser, Layer, Overlay, UserNamespace
from sessiond.nest.record import Folder, Record


def _record(pid: int = 0, started: int = 0, *, boot: str | None = None) -> Record:
    return Record(
        uid=os.getuid(),
        user="somebody",
        cgroup="/nowhere/at/all",
        runtime_dir="/nowhere/run",
        machine_boot_id=boot or record.machine_boot_id(),
        pid=pid,
        start_time=started,
        ready=True,
    )


# --- alive or dead ------------------------------------------------------------------------------


def test_a_process_lives_by_pid_start_time_and_boot() -> None:
    started = record.start_time(os.getpid())
    assert started is not None
    assert _record(os.getpid(), started).alive
    assert not _record(os.getpid(), started + 1).alive
    assert not _record(os.getpid(), started, boot="another boot").alive
    assert not _record().alive


def test_a_zombie_and_a_missing_process_have_no_start_time() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert record.start_time(process.pid) is None
    process.wait()
    assert record.start_time(process.pid) is None


def test_a_command_with_brackets_and_spaces_is_no_field(tmp_path: Path) -> None:
    program = tmp_path / "a) Z b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "987660"]) as process:
        started = record.start_time(process.pid)
        process.kill()
    own = record.start_time(os.getpid())
    assert started is not None
    assert own is not None
    assert started >= own


# --- the record and its folder ------------------------------------------------------------------


def test_a_record_is_read_as_written_and_damage_is_none(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.load() is None
    folder.save(_record(12, 34))
    assert folder.load() == _record(12, 34)
    for damaged in ("", "{", "[]", "null", json.dumps({"format": 1}), json.dumps({"format": 99})):
        folder.record.write_text(damaged)
        assert folder.load() is None


def test_a_record_of_another_boot_leads_to_no_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path / "n")
    record.prepare(folder, uid=os.getuid(), gid=os.getgid())
    folder.save(_record(os.getpid(), 1, boot="another boot"))
    monkeypatch.setattr(cgroups, "kill", lambda *_: pytest.fail("killed by a record of another boot"))
    assert nest.down(base=folder.path) is True
    assert not folder.path.exists()


def test_folders_are_private_and_unsafe_ones_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "n")
    record.prepare(folder, uid=os.getuid(), gid=os.getgid())
    record.prepare_inner(folder, uid=os.getuid(), gid=os.getgid())
    for path in (folder.path, folder.boot, folder.runtime):
        assert path.stat().st_mode & 0o777 == 0o700
    folder.runtime.rmdir()
    folder.runtime.symlink_to(tmp_path)
    with pytest.raises(PermissionDenied) as raised:
        record.prepare_inner(folder, uid=os.getuid(), gid=os.getgid())
    assert raised.value.code == "nest_folder_unsafe"


def test_a_linked_or_foreign_record_folder_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(PermissionDenied):
        nest.status(base=tmp_path / "link")
    with pytest.raises(PermissionDenied):
        nest.down(base=tmp_path / "link")
    assert nest.status(base=tmp_path / "missing") is None
    assert nest.down(base=tmp_path / "missing") is False


def test_a_lock_whose_folder_went_away_is_taken_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "n")
    made: list[int] = []

    def make() -> None:
        made.append(1)
        record.prepare(folder, uid=os.getuid(), gid=os.getgid())

    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with record.locked(folder, make):
            entered.set()
            leave.wait(60)
            # As down does, with the lock still held.
            folder.lock.unlink()
            folder.path.rmdir()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(60)
    timer = threading.Timer(0.05, leave.set)
    timer.start()
    with record.locked(folder, make):
        assert folder.lock.exists()
    thread.join(60)
    timer.join(60)
    assert len(made) == 3


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        record.check_owner(Folder(tmp_path / "missing"))


def test_where_a_record_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert record.record_folder(7, tmp_path).path == tmp_path
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert record.record_folder(7).path == Path("/run/sessiond-nest/7")
    monkeypatch.undo()
    monkeypatch.setattr(record, "ROOT_RECORDS", tmp_path / "none")
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid or 4294)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    owned = tmp_path.stat().st_uid == os.geteuid()
    wanted = tmp_path / "sessiond-nest" if owned else Path("/tmp/sessiond-nest-7")
    assert record.record_folder(7).path == wanted


def test_a_socket_path_too_long_is_said_before_anything_is_made(tmp_path: Path) -> None:
    base = tmp_path / ("x" * 60)
    with pytest.raises((InvalidArgument, PermissionDenied, Unsupported)) as raised:
        nest.up(base=base)
    if isinstance(raised.value, InvalidArgument):
        assert raised.value.code == "socket_path_too_long"
    assert not base.exists()


# --- what the stage is told ---------------------------------------------------------------------


def test_a_plan_comes_back_as_it_was_sent() -> None:
    plan = BootPlan(
        cgroup="/c",
        scratch="/s",
        console="/dev/pts/1",
        machine_id="m",
        boot_id="b",
        init=("/init", "--system"),
        environment={"A": "1"},
        entries=(Entry("file", "/run/x", "text", 0o600, 5), Entry("link", "/run/y", "x")),
        binds=("/run/z",),
        run_kept=("/run/k",),
        devices=("fuse",),
        lingering=("me",),
        outside=("/proc", "/run/outside"),
    )
    assert BootPlan.from_json(plan.to_json()) == plan
    overlay = Overlay(
        "/m", (Layer("/", "/u", "/w"),), ("/etc/hosts",), ("/tmp",), ("/root",), GuestUser("t", 1, True), True
    )
    fuller = replace(plan, overlay=overlay, user_namespace=UserNamespace(1, 2, (3, 4), (5, 6)))
    assert BootPlan.from_json(fuller.to_json()) == fuller
    assert len(fuller.to_json()) < 1 << 16


def test_a_nest_in_a_nest_is_shown_what_that_sees_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "OUTSIDE", str(tmp_path))
    assert layout.outside() == ("/proc", str(tmp_path))
    (tmp_path / "self").symlink_to("/proc/self")
    assert layout.outside() == (str(tmp_path), str(tmp_path))


def test_units_are_links_to_files_never_to_folders(tmp_path: Path) -> None:
    for name in units._REQUIRED:
        (tmp_path / name).touch()
    (tmp_path / "dbus-broker.service").touch()
    (tmp_path / "dbus.service").symlink_to("dbus-broker.service")
    (tmp_path / "user@0.service.d").mkdir()
    (tmp_path / "user@0.service.d/10-vendor.conf").touch()
    entries = {
        entry.path: entry
        for entry in units.unit_entries(tmp_path, uid=0, start_user=True, flush=False, notify="/n")
    }
    ours = f"{units.UNIT_DIR}/user@0.service.d"
    assert entries[f"{ours}/10-vendor.conf"].content == str(tmp_path / "user@0.service.d/10-vendor.conf")
    assert f"{ours}/50-sessiond-ready.conf" in entries
    assert not [entry for entry in entries.values() if entry.kind == "link" and Path(entry.content).is_dir()]
    assert entries[f"{units.UNIT_DIR}/dbus.service"].content == "dbus-broker.service"
    assert (
        "Wants=systemd-logind.service user@0.service\n" in entries[f"{units.UNIT_DIR}/{units.TARGET}"].content
    )


def test_variables_reach_the_manager_of_their_user_alone() -> None:
    (entry,) = units.unit_environment(1000, {"SESSIOND_RUNTIME_DIR": "/run/x"})
    assert entry.path.startswith(f"{units.UNIT_DIR}/user@1000.service.d/")
    assert entry.content == '[Service]\nEnvironment="SESSIOND_RUNTIME_DIR=/run/x"\n'
    assert units.unit_environment(1000, {}) == []


def test_kept_folders_never_bring_in_the_record_folder() -> None:
    kept = layout.run_kept(Path("/run/lock/n"), isolated=False)
    assert "/run/lock" not in kept
    assert not {"/run/systemd", "/run/user", "/run/dbus"} & set(kept)
    assert not [path for path in kept if any(path.startswith(other + "/") for other in kept)]


# --- what must be there -------------------------------------------------------------------------


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "vendor_dir", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unsupported) as raised:
        requirements.init_binary()
    assert raised.value.code == "nest_needs_packages"
    assert {"systemd", "dbus"} <= set(raised.value.fields["packages"].split())
    with pytest.raises(Unsupported, match="nsenter and setpriv"):
        requirements.check_tools()


def test_without_root_only_ones_own_nest_can_be_booted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionDenied) as raised:
        requirements.user_namespace(0)
    assert raised.value.fields == {"missing": "root"}
    monkeypatch.setattr(cgroups, "delegated_parent", lambda: None)
    with pytest.raises(PermissionDenied) as raised:
        requirements.cgroup_parent()
    assert raised.value.fields == {"missing": "delegated cgroup"}


def test_switched_off_user_namespaces_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path("/proc/sys/kernel/ostype").read_text().strip()
    monkeypatch.setattr(requirements, "_USERNS_SWITCHES", {"kernel/ostype": here})
    with pytest.raises(PermissionDenied) as raised:
        requirements.user_namespace(os.geteuid())
    assert raised.value.fields == {"missing": "user namespaces"}
    assert "kernel.ostype" in raised.value.message


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("me:100000:65536\n", (100000, 65536)),
        ("other:1:2\n1234:300:400\n", (300, 400)),
        ("other:1:2\n", ()),
        ("me:x:y\nme\n", ()),
    ],
)
def test_ranges_of_ids_are_read(tmp_path: Path, text: str, wanted: tuple[int, ...]) -> None:
    file = tmp_path / "subuid"
    file.write_text(text)
    assert requirements._range(str(file), "me", 1234) == wanted
    assert requirements._range(str(tmp_path / "missing"), "me", 1234) == ()


def test_a_guest_needs_an_overlay() -> None:
    with pytest.raises(InvalidArgument) as raised:
        lifecycle._identity(1000, nest.Options(guest="tester"))
    assert raised.value.code == "nest_guest_needs_overlay"
    with pytest.raises(InvalidArgument) as raised:
        lifecycle._identity(3_999_999_999, nest.Options())
    assert raised.value.code == "nest_user_unknown"


def test_a_cgroup_that_is_gone_is_empty_and_removed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert cgroups.populated(gone) is False
    cgroups.kill(gone, 0)
    cgroups.remove(gone)
    assert list(cgroups.pids(gone)) == []


def test_every_controller_is_passed_on_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    written: list[str] = []

    def write(path: Path, text: str) -> int:
        if text == "+memory":
            raise OSError(16, "busy")
        written.append(text)
        return len(text)

    monkeypatch.setattr(Path, "write_text", write)
    cgroups.pass_on_controllers(tmp_path)
    assert written == ["+cpu", "+pids"]
