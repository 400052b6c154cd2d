"""Processes of a program of which nothing tells what they have open: one row each, that none is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sessiond.adapters.reading.evidence import executes
from sessiond.discovery.lives import Lives, lineage
from sessiond.model.agent_session import HOME, PROCESS, Found, Life
from sessiond.ports.discovery import AgentAdapter, Evidence, Possible, Process, Processes


def strangers(
    adapter: AgentAdapter, lives: Lives, evidence: Evidence, rows: Mapping[str, Found], processes: Processes
) -> dict[str, Found]:
    """By id, a row for each process of the program that no row accounts for. Those in units of our agents are
    told by these; who works through a server that is known has its conversation there; where nothing can be
    concluded, all rows say so."""
    if not adapter.program or evidence.holders or evidence.unknown or evidence.elsewhere:
        return {}
    doubtful = {one.pid: one for one in lives.possible if not _fits(lives, one, rows)}
    accounted = {
        life.pid
        for session, life in lives.known.items()
        if life.pid is not None and not _abroad(lives, life, rows.get(session), processes.get(life.pid))
    }
    accounted |= {one.pid for one in lives.possible if one.pid not in doubtful}
    accounted |= set(evidence.spare)
    families = {pid for known in accounted for pid in _above(known, processes)}
    left = {
        one.pid: one
        for one in processes.all()
        if (one.pid in doubtful or executes(one, adapter.program))
        and not one.mark
        and one.pid not in families
        and accounted.isdisjoint(_above(one.pid, processes))
    }
    # Of those that start each other the last is the one that works.
    starters = {pid for one in left.values() for pid in _above(one.parent, processes)}
    found = (_row(adapter, one, doubtful.get(one.pid)) for one in left.values() if one.pid not in starters)
    return {one.id: one for one in found}


def _row(adapter: AgentAdapter, process: Process, doubt: Possible | None) -> Found:
    reason = doubt.reason if doubt else f"process {process.pid} runs as {adapter.program}"
    if doubt is None:
        reason += ", and no conversation is known that it has open"
    life = Life(None, reason, process.pid, process.start_time)
    return Found(adapter.name, f"{PROCESS}{process.pid}-{process.start_time}", cwd=process.cwd, life=life)


def _abroad(lives: Lives, life: Life, found: Found | None, process: Process | None) -> bool:
    """Whether it only may be that a process has one of another folder open: in its own it is to be seen."""
    if life.alive is not None or found is None or process is None:
        return False
    there = Possible(process.pid, process.start_time, process.cwd, life.reason, found.native.get(HOME, ""))
    return not lives.may_have(there, found)


def _fits(lives: Lives, one: Possible, rows: Mapping[str, Found]) -> bool:
    return any(lives.may_have(one, found) for found in rows.values() if found.id not in lives.known)


def _above(pid: int, processes: Processes) -> Iterator[int]:
    """A process and those that it comes from, but the first of all."""
    process = processes.get(pid)
    if process is not None:
        yield from (one.pid for one in lineage(process, processes) if one.pid > 1)
