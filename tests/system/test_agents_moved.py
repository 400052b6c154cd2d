"""Agents of a workspace that is moved: they start again where it is now."""

from __future__ import annotations

from tests.system.agents_case import crew_of, state
from tests.system.product import INSIDE_ROOTS, Product, until


def test_an_agent_is_restarted_where_its_workspace_is_now(product: Product) -> None:
    folder, moved = product.folder("before", under=INSIDE_ROOTS), f"{INSIDE_ROOTS}/after"
    session = product.started(folder=folder)["id"]
    product.write(f"{folder}/src/tell", "#!/bin/sh\npwd\necho in $PWD\nexec sleep 600\n")
    product.host.run(["chmod", "+x", f"{folder}/src/tell"])
    with crew_of(product, session) as crew:
        plain = crew.run("./tell", cwd=f"{folder}/src", name="plain")
        kept = crew.run("./tell", cwd=f"{folder}/src", name="kept", tty=True, resurrect=True)
        for one in (plain, kept):
            crew.printed(one.id, f"in {folder}/src")
        product.host.run(["mv", folder, moved])
        until(lambda: product.links() == {session: moved}, "the session to follow its workspace")
        # What runs is left alone.
        assert [state(crew.get(one.id)) for one in (plain, kept)] == ["running", "running"]
        for one in (plain, kept):
            again = crew.restart(one.id)
            assert (state(again), again.cwd) == ("running", f"{moved}/src")
            crew.printed(one.id, f"in {moved}/src")
            told = [f"{way}{where}/src" for where in (folder, moved) for way in ("", "in ")]
            assert list(crew.lines(one.id)) == told
