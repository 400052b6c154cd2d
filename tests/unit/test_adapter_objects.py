"""Foreign JSON and packages: what they hold is told, and what is broken is nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.adapters.reading.objects import (
    decode_object,
    decoded,
    decoded_file,
    encoded,
    file_object,
    inner,
)
from sessiond.adapters.reading.packages import VERSION_MAX, packaged_version, read_package

DEEP = "[" * 100_000


class Line(msgspec.Struct):
    name: str = ""


class Named(msgspec.Struct):
    name: str


LINE = msgspec.json.Decoder(Line)
NAMED = msgspec.json.Decoder(Named)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"name":7}', b"\xff", DEEP, '{"name":"\udcff"}', DEEP.encode()]
)
def test_a_broken_line_is_none(data: bytes | str) -> None:
    assert decoded(LINE, data) is None


def test_a_line_is_what_it_says() -> None:
    assert decoded(LINE, b'{"name":"x","more":[1]}') == Line("x")
    assert decoded(LINE, '{"name":"x"}') == Line("x")


def test_a_file_is_its_first_value_while_the_end_of_an_older_one_follows() -> None:
    assert decoded_file(LINE, b'{"name":"x"}') == Line("x")
    assert decoded_file(LINE, b' \n{"name":"x\xc3\xa9"}":"longer"}') == Line("x\u00e9")
    assert file_object(b'{"a":{"b":1}}}') == {"a": {"b": 1}}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"{} ", b'{"name":7}}', b"\xff{}", DEEP.encode(), b'"x" {}', b'{"name":"\xff"}}']
)
def test_a_file_that_begins_with_no_such_value_is_none(data: bytes) -> None:
    assert decoded_file(NAMED, data) is None
    assert file_object(data.replace(b"{", b"[").replace(b"}", b"]")) == {}


@pytest.mark.parametrize("data", [None, 7, "", "[]", "7", b"\xff", DEEP, '{"a":', "\udcff"])
def test_what_is_no_object_is_an_empty_one(data: object) -> None:
    assert decode_object(data) == {}


def test_objects_in_objects() -> None:
    value = decode_object(b'{"a":{"b":1},"c":[]}')
    assert inner(value, "a") == {"b": 1}
    assert inner(value, "c") == inner(value, "d") == {}


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)
)
def test_any_value_is_encoded_or_empty(value: Any) -> None:
    assert isinstance(encoded(value), str)
    assert encoded(None) == encoded("\udcff") == ""
    assert encoded({"a": ["ä"]}) == '{"a":["ä"]}'


def test_the_nearest_package_tells_the_version(tmp_path: Path) -> None:
    outer, package = tmp_path / "package.json", tmp_path / "node_modules/it/package.json"
    program = package.parent / "bin/it"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / "it").symlink_to(program)
    outer.write_text('{"name":"outer","version":"1.0.0"}')

    def version() -> str:
        return packaged_version(str(tmp_path / "it"), lambda name: name == "it")

    assert version() == ""
    package.write_text('{"name":"it","version":"' + "2" * 100 + '"}')
    assert version() == "2" * VERSION_MAX
    for broken in ("", "{", "[]", '{"name":7}'):
        package.write_text(broken)
        assert read_package(str(package)) is None
        assert version() == "", "the package above is another's"
    package.unlink()
    os.mkfifo(package)
    assert read_package(str(package)) is None
    assert packaged_version("", lambda name: False) == ""
