"""Bad days of discovery: files that were read well, and can be read no more."""

from __future__ import annotations

import textwrap

import pytest

from sessiond.errors import SessiondError
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from tests.system.discovery_case import (
    Programs,
    listed,
    problems,
    programs,
    rollout_path,
    settings,
    transcript_path,
    watching,
)
from tests.system.product import HOME, Product
from tests.system.test_bad_days_discovery import well

__all__ = ["programs", "settings"]


def test_what_cannot_be_read_any_more_is_stale_and_not_gone_on_with_until_it_can(
    product: Product, programs: Programs
) -> None:
    folder = product.folder()
    other, thread = programs.transcript(folder), programs.rollout(folder)
    databases = f"{HOME}/.local/share/opencode"
    places = [transcript_path(other, folder), rollout_path(thread), f"{databases}/opencode.db"]
    script = f"""
    import sqlite3, sys
    c = sqlite3.connect(sys.argv[1])
    c.execute("CREATE TABLE session(id, directory, time_created INT, time_updated INT)")
    c.execute("CREATE TABLE message(id, session_id, time_created INT, data)")
    c.execute("CREATE TABLE part(id, message_id, data)")
    c.executemany("INSERT INTO session VALUES (?, '{folder}', 1, 2)", [("ses_1",), ("ses_2",)])
    c.commit()
    """
    product.host.run(["mkdir", "-p", databases])
    product.host.run(["python3", "-c", textwrap.dedent(script), places[-1]])
    try:
        sessions = {other, thread, "ses_1", "ses_2"}
        with watching(product) as watch:
            assert watch.rows.keys() == sessions
            assert not any(row.stale for row in watch.rows.values())
            for path in places:
                product.host.run(
                    ["sh", "-c", f"cp -p {path} {path}.kept; head -c 3000 /dev/urandom > {path}.new"]
                )
                product.host.run(["mv", f"{path}.new", path])
            watch.until(lambda one: all(row.stale for row in one.rows.values()), "they are old answers")
            assert {one: row.stale for one, row in listed(product).items()} == dict.fromkeys(sessions, True)
            assert {path for _, path in problems(product)} == set(places)
            for session in sessions:
                request = pb.ResumeAgentSessionRequest(agent_session=session, prompt="go on")
                with product.client() as client, pytest.raises(SessiondError) as caught:
                    client.call(client.discovery.ResumeAgentSession, request)
                assert caught.value.code == "agent_session_unreadable"
                assert any(path in caught.value.message for path in places)
            for path in places:
                product.host.run(["mv", f"{path}.kept", path])
            watch.until(lambda one: not any(row.stale for row in one.rows.values()), "they are well")
            assert watch.removed() == set()
            assert {status for one in sessions for status in watch.statuses(one)} == {"stopped"}
        assert {one: row.stale for one, row in listed(product).items()} == dict.fromkeys(sessions, False)
        well(product, "all can be read")
    finally:
        product.host.run(["rm", "-r", databases])
