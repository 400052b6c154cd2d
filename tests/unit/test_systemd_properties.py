"""Resource-control properties: notation to values and back, and what is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import InvalidArgument
from sessiond.init.systemd import notation, properties
from sessiond.init.systemd.notation import INFINITY, SCALE
from sessiond.init.systemd.properties import PROPERTIES

# What an untouched slice has, as systemd 252 tells it.
DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("CPUAccounting", "IOAccounting", "IPAccounting"), False),
    **dict.fromkeys(("MemoryAccounting", "TasksAccounting"), True),
    **dict.fromkeys(("CPUWeight", "StartupCPUWeight", "IOWeight", "StartupIOWeight"), INFINITY),
    **dict.fromkeys(("CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec"), INFINITY),
    **dict.fromkeys(("AllowedCPUs", "AllowedMemoryNodes"), b""),
    **dict.fromkeys(("MemoryMin", "MemoryLow"), 0),
    **dict.fromkeys(("MemoryHigh", "MemoryMax", "MemorySwapMax"), INFINITY),
    "TasksMax": 4915,
    **{
        name: []
        for name in (
            "IODeviceWeight",
            "IOReadBandwidthMax",
            "IODeviceLatencyTargetUSec",
            "IPAddressAllow",
            "IPAddressDeny",
            "DeviceAllow",
        )
    },
    "DevicePolicy": "auto",
    "ManagedOOMMemoryPressure": "auto",
    "ManagedOOMMemoryPressureLimit": 0,
}


def applied(wanted: dict[str, str]) -> dict[str, Any]:
    """What a slice has after the settings: lists grow, an empty one clears, a scale is of 1 GiB."""
    values = dict(DEFAULTS)
    for name, variant in properties.settings(wanted, DEFAULTS):
        if name.endswith("Scale"):
            values[name.removesuffix("Scale")] = variant.value * 2**30 // SCALE
        elif isinstance(variant.value, list):
            values[name] = [*values[name], *map(tuple, variant.value)] if variant.value else []
        else:
            values[name] = variant.value
    return values


@pytest.mark.parametrize(
    ("name", "text", "bus", "value"),
    [
        ("MemoryMax", "2G", "MemoryMax", 2**31),
        ("MemoryMax", "1.5K", "MemoryMax", 1536),
        ("MemoryMax", "1024", "MemoryMax", 1024),
        ("MemoryMax", "infinity", "MemoryMax", INFINITY),
        ("MemoryHigh", "50%", "MemoryHighScale", 2**31),
        ("MemorySwapMax", "0", "MemorySwapMax", 0),
        ("CPUQuota", "150%", "CPUQuotaPerSecUSec", 1_500_000),
        ("CPUQuota", "12.5%", "CPUQuotaPerSecUSec", 125_000),
        ("CPUQuotaPeriodSec", "10ms", "CPUQuotaPeriodUSec", 10_000),
        ("CPUWeight", "idle", "CPUWeight", 0),
        ("CPUWeight", "10000", "CPUWeight", 10000),
        ("TasksMax", "500", "TasksMax", 500),
        ("TasksMax", "10%", "TasksMaxScale", (SCALE + 5) // 10),
        ("AllowedCPUs", "0-3,8 10", "AllowedCPUs", bytes([0b1111, 0b101])),
        ("IOAccounting", "yes", "IOAccounting", True),
        ("DevicePolicy", "strict", "DevicePolicy", "strict"),
        ("ManagedOOMMemoryPressureLimit", "80%", "ManagedOOMMemoryPressureLimit", 80 * SCALE // 100),
    ],
)
def test_a_value_is_set_under_its_name_on_the_bus(name: str, text: str, bus: str, value: Any) -> None:
    [(found, variant)] = properties.settings({name: text}, DEFAULTS)
    assert (found, variant.value) == (bus, value)
    assert variant.signature == ("u" if bus.endswith("Scale") else PROPERTIES[name].kind.signature)


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [
        ("MemoryMax", "2048M", "2G"),
        ("MemoryMax", "50%", "512M"),
        ("MemoryLow", "100", "100"),
        ("CPUQuota", "150.00%", "150%"),
        ("CPUQuota", "12.25%", "12.25%"),
        ("CPUQuotaPeriodSec", "0.5s", "500ms"),
        ("CPUQuotaPeriodSec", "1min 30s", "90s"),
        ("CPUWeight", "idle", "idle"),
        ("TasksMax", "infinity", "infinity"),
        ("AllowedCPUs", "1,0 2 7", "0-2 7"),
        ("IODeviceWeight", "/dev/sda 200; /dev/my disk 5", "/dev/sda 200; /dev/my disk 5"),
        ("IOReadBandwidthMax", "/dev/sda 5M", "/dev/sda 5M"),
        ("IODeviceLatencyTargetSec", "/dev/sda 25ms", "/dev/sda 25ms"),
        ("IPAddressAllow", "10.0.0.0/8 localhost", "10.0.0.0/8 127.0.0.0/8 ::1/128"),
        ("IPAddressDeny", "::1 9.9.9.9 10.0.0.0/8 9.9.0.0/16", "9.9.0.0/16 9.9.9.9/32 10.0.0.0/8 ::1/128"),
        ("DeviceAllow", "/dev/null rw; char-pts", "/dev/null rw; char-pts rwm"),
        ("MemoryAccounting", "off", "no"),
        ("ManagedOOMMemoryPressureLimit", "80%", "80%"),
    ],
)
def test_a_value_is_shown_as_unit_files_have_it(name: str, text: str, shown: str) -> None:
    assert properties.differing(applied({name: text}), DEFAULTS) == {name: shown}
    # What is shown can be set, and is the same.
    assert properties.differing(applied({name: shown}), DEFAULTS) == {name: shown}


@pytest.mark.parametrize("name", [one.name for one in PROPERTIES.values() if one.bus in DEFAULTS])
def test_an_empty_value_is_the_default_again(name: str) -> None:
    assert properties.differing(applied({name: ""}), DEFAULTS) == {}
    assert properties.differing(applied({name: "  "}), DEFAULTS) == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MemoryMax", "2X"),
        ("MemoryMax", "-1"),
        ("MemoryMax", "101%"),
        ("MemoryMax", "%"),
        ("MemoryMax", "99999999999999E"),
        ("MemoryMax", "2G\nTasksMax=1"),
        ("CPUQuota", "150"),
        ("CPUQuota", "0%"),
        ("CPUQuota", "-5%"),
        ("CPUWeight", "0"),
        ("CPUWeight", "10001"),
        ("IOWeight", "idle"),
        ("TasksMax", "0"),
        ("TasksMax", "5.5"),
        ("AllowedCPUs", "3-1"),
        ("AllowedCPUs", "99999"),
        ("AllowedCPUs", "two"),
        ("CPUQuotaPeriodSec", "5 parsecs"),
        ("MemoryAccounting", "maybe"),
        ("IODeviceWeight", "sda 100"),
        ("IODeviceWeight", "/dev/sda"),
        ("IPAddressAllow", "10.0.0.0/99"),
        ("DeviceAllow", "/etc/passwd rw"),
        ("DeviceAllow", "/dev/null xyz"),
        ("DevicePolicy", "open"),
        ("ManagedOOMMemoryPressureLimit", "80"),
    ],
)
def test_a_bad_value_is_refused_with_an_example(name: str, text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        properties.check({name: text})
    assert caught.value.code == "property_invalid"
    assert caught.value.fields["property"] == name
    assert f"{name}={PROPERTIES[name].kind.example}" in caught.value.hint


@pytest.mark.parametrize("one", PROPERTIES.values(), ids=lambda one: one.name)
def test_the_example_in_the_hint_can_be_set(one: properties.Property) -> None:
    properties.check({one.name: one.kind.example})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("memorymax", "MemoryMax"),
        ("MemMax", "MemoryMax"),
        ("CPUQouta", "CPUQuota"),
        ("Nonsense" * 50, "MemoryMax"),
        ("", "MemoryMax"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_are_near(name: str, hint: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        properties.check({name: "1"})
    assert caught.value.code == "property_unknown"
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["MemoryLimit", "CPUShares", "Delegate", "BPFProgram"])
def test_a_name_that_is_not_offered_says_why(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        properties.check({name: "1"})
    assert caught.value.code == "property_unknown"
    assert ": it " in caught.value.message or "nobody" in caught.value.message


def test_what_an_older_systemd_does_not_have_is_unknown() -> None:
    with pytest.raises(InvalidArgument) as caught:
        properties.settings({"MemoryZSwapMax": "1G"}, DEFAULTS)
    assert caught.value.code == "property_unknown"
    assert "version of systemd" in caught.value.message


def test_one_bad_value_among_good_ones_sets_nothing() -> None:
    with pytest.raises(InvalidArgument):
        properties.settings({"TasksMax": "500", "MemoryMax": "x"}, DEFAULTS)


@given(st.sampled_from(sorted(PROPERTIES)), st.text(max_size=40))
def test_any_text_is_set_or_refused(name: str, text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        properties.check({name: text})


@given(st.integers(0, INFINITY - 1))
def test_sizes_and_times_survive_the_way_there_and_back(number: int) -> None:
    assert notation.parse_size(notation.format_size(number)) == number
    assert notation.parse_size(notation.format_size(number, 1000), 1000) == number
    assert notation.parse_time(notation.format_time(number)) == number


@given(st.sets(st.integers(0, 8191)))
def test_masks_survive_the_way_there_and_back(numbers: set[int]) -> None:
    mask = notation.parse_mask(" ".join(map(str, numbers)))
    assert {bit for bit in range(8192) if bit // 8 < len(mask) and mask[bit // 8] >> bit % 8 & 1} == numbers
    assert notation.parse_mask(notation.format_mask(mask)) == mask
