"""The resource-control properties of a slice: their notation in unit files, and their values on the bus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from dbus_fast import Variant

from sessiond.errors import InvalidArgument
from sessiond.init.systemd import notation
from sessiond.init.systemd.notation import INFINITY, SCALE

Setting = tuple[str, Variant]


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of value: its D-Bus type, from text (raises ValueError) and back, and an example."""

    signature: str
    parse: Callable[[str], Any]
    format: Callable[[Any], str]
    example: str


@dataclass(frozen=True, slots=True)
class Property:
    """One property: its name in unit files and on the bus, and the cgroup controller that enforces it.

    ``scale`` says that a percentage is set under the bus's name + `Scale`; ``empties``, that a list is
    appended to unless an empty one is set first.
    """

    name: str
    bus: str
    kind: Kind
    controller: str
    scale: bool = False
    empties: bool = False

    def settings(self, text: str) -> list[Setting]:
        """What to set for a value as in a unit file. Raises InvalidArgument `property_invalid`."""
        try:
            percent = notation.parse_percent(text) if self.scale else None
            if percent is not None:
                return [(f"{self.bus}Scale", Variant("u", _scaled(percent)))]
            value = self.kind.parse(text)
        except ValueError as error:
            raise InvalidArgument(
                "property_invalid",
                f"{self.name}={text[:200]!r}: {error}",
                hint=f"for example {self.name}={self.kind.example}",
                fields={"property": self.name, "value": text[:200]},
            ) from error
        setting = (self.bus, Variant(self.kind.signature, value))
        return [(self.bus, Variant(self.kind.signature, [])), setting] if self.empties else [setting]

    def reset(self, default: Any) -> list[Setting]:
        """What to set to be back at the default."""
        return [(self.bus, Variant(self.kind.signature, default))]


def _scaled(percent: Decimal) -> int:
    if percent > 100:
        raise ValueError("more than 100% of what the machine has")
    return (int(percent * 100) * SCALE + 5000) // 10000


# ---- kinds


def _infinite(parse: Callable[[str], int], text: str) -> int:
    return INFINITY if text == "infinity" else parse(text)


def _finite(show: Callable[[int], str], value: int) -> str:
    return "infinity" if value == INFINITY else show(value)


def _weight(text: str) -> int:
    return notation.parse_count(text, 1, 10000)


def _cpu_weight(text: str) -> int:
    return 0 if text == "idle" else _weight(text)


def _show_weight(value: int) -> str:
    return {0: "idle", INFINITY: ""}.get(value, str(value))


def _quota(text: str) -> int:
    percent = notation.parse_percent(text)
    if not percent:
        raise ValueError("a percentage of one CPU above 0% is wanted")
    return int(percent * 10000)


def _show_quota(value: int) -> str:
    return notation.format_percent(Decimal(value) / 10000)


def _pressure(text: str) -> int:
    percent = notation.parse_percent(text)
    if percent is None:
        raise ValueError("a percentage is wanted")
    return _scaled(percent)


def _show_pressure(value: int) -> str:
    return notation.format_percent(Decimal(value) * 100 / SCALE)


def _one_of(words: tuple[str, ...], text: str) -> str:
    if text not in words:
        raise ValueError(f"one of {', '.join(words)} is wanted")
    return text


def _choice(*words: str) -> Kind:
    return Kind("s", partial(_one_of, words), str, words[-1])


def _entries(parse: Callable[[str], int], text: str) -> list[list[str | int]]:
    """Pairs of a path and a value, separated by semicolons."""
    found: list[list[str | int]] = []
    for entry in text.split(";"):
        path, _, value = entry.strip().rpartition(" ")
        if not path.startswith("/"):
            raise ValueError("a path and a value are wanted, and a semicolon between such pairs")
        found.append([path.strip(), parse(value)])
    return found


def _show_entries(show: Callable[[int], str], rows: Iterable[tuple[str, int]]) -> str:
    return "; ".join(f"{path} {show(value)}" for path, value in rows)


def _devices(text: str) -> list[list[str]]:
    found = []
    for entry in text.split(";"):
        device, _, access = entry.strip().partition(" ")
        access = access.strip() or "rwm"
        if not device.startswith(("/dev/", "char-", "block-")) or set(access) - set("rwm"):
            raise ValueError("a device and any of the letters r, w, m are wanted")
        found.append([device, access])
    return found


def _show_devices(rows: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{device} {access}" for device, access in rows)


def _per_device(parse: Callable[[str], int], show: Callable[[int], str], example: str) -> Kind:
    return Kind("a(st)", partial(_entries, parse), partial(_show_entries, show), example)


_BOOL = Kind("b", notation.parse_bool, lambda value: "yes" if value else "no", "yes")
_WEIGHT = Kind("t", _weight, _show_weight, "200")
_CPU_WEIGHT = Kind("t", _cpu_weight, _show_weight, "200")
_QUOTA = Kind("t", _quota, partial(_finite, _show_quota), "150%")
_TIME = Kind("t", partial(_infinite, notation.parse_time), partial(_finite, notation.format_time), "500ms")
_MASK = Kind("ay", notation.parse_mask, notation.format_mask, "0-3")
_SIZE = Kind("t", partial(_infinite, notation.parse_size), partial(_finite, notation.format_size), "2G")
_COUNT = Kind("t", partial(_infinite, partial(notation.parse_count, least=1)), partial(_finite, str), "500")
_PRESSURE = Kind("u", _pressure, _show_pressure, "80%")
_NETWORKS = Kind("a(iayu)", notation.parse_networks, notation.format_networks, "localhost")
_DEVICES = Kind("a(ss)", _devices, _show_devices, "/dev/null rw")
_DEVICE_WEIGHT = _per_device(_weight, str, "/dev/sda 200")
_DEVICE_RATE = _per_device(
    partial(notation.parse_size, base=1000), partial(notation.format_size, base=1000), "/dev/sda 10M"
)
_DEVICE_TIME = _per_device(notation.parse_time, notation.format_time, "/dev/sda 25ms")


def _table() -> Iterable[Property]:
    for name in ("CPU", "Memory", "Tasks", "IO", "IP"):
        yield Property(f"{name}Accounting", f"{name}Accounting", _BOOL, _CONTROLLERS[name])
    for name in ("CPUWeight", "StartupCPUWeight"):
        yield Property(name, name, _CPU_WEIGHT, "cpu")
    yield Property("CPUQuota", "CPUQuotaPerSecUSec", _QUOTA, "cpu")
    yield Property("CPUQuotaPeriodSec", "CPUQuotaPeriodUSec", _TIME, "cpu")
    for start in ("", "Startup"):
        for name in ("AllowedCPUs", "AllowedMemoryNodes"):
            yield Property(start + name, start + name, _MASK, "cpuset")
        for name in ("MemoryMin", "MemoryLow", "MemoryHigh", "MemoryMax", "MemorySwapMax", "MemoryZSwapMax"):
            if start + name != "StartupMemoryMin":
                yield Property(start + name, start + name, _SIZE, "memory", scale=True)
    for name in ("DefaultMemoryMin", "DefaultMemoryLow", "DefaultStartupMemoryLow"):
        yield Property(name, name, _SIZE, "memory", scale=True)
    yield Property("MemoryZSwapWriteback", "MemoryZSwapWriteback", _BOOL, "memory")
    yield Property("TasksMax", "TasksMax", _COUNT, "pids", scale=True)
    for name in ("IOWeight", "StartupIOWeight"):
        yield Property(name, name, _WEIGHT, "io")
    yield Property("IODeviceWeight", "IODeviceWeight", _DEVICE_WEIGHT, "io", empties=True)
    for name in ("IOReadBandwidthMax", "IOWriteBandwidthMax", "IOReadIOPSMax", "IOWriteIOPSMax"):
        yield Property(name, name, _DEVICE_RATE, "io", empties=True)
    latency = ("IODeviceLatencyTargetSec", "IODeviceLatencyTargetUSec")
    yield Property(*latency, _DEVICE_TIME, "io", empties=True)
    for name in ("IPAddressAllow", "IPAddressDeny"):
        yield Property(name, name, _NETWORKS, "bpf-firewall", empties=True)
    yield Property("DevicePolicy", "DevicePolicy", _choice("auto", "closed", "strict"), "bpf-devices")
    yield Property("DeviceAllow", "DeviceAllow", _DEVICES, "bpf-devices", empties=True)
    for name in ("ManagedOOMSwap", "ManagedOOMMemoryPressure"):
        yield Property(name, name, _choice("auto", "kill"), "memory")
    yield Property("ManagedOOMPreference", "ManagedOOMPreference", _choice("none", "avoid", "omit"), "memory")
    limit = "ManagedOOMMemoryPressureLimit"
    yield Property(limit, limit, _PRESSURE, "memory")
    duration = "ManagedOOMMemoryPressureDuration"
    yield Property(f"{duration}Sec", f"{duration}USec", _TIME, "memory")


_CONTROLLERS = {"CPU": "cpu", "Memory": "memory", "Tasks": "pids", "IO": "io", "IP": "bpf-firewall"}

PROPERTIES: dict[str, Property] = {one.name: one for one in _table()}

# Of resource control too, and not offered: what each would need, or what is in its place.
_NOT_OFFERED = {
    "CPUShares": "it is of cgroup v1: CPUWeight is in its place",
    "StartupCPUShares": "it is of cgroup v1: StartupCPUWeight is in its place",
    "MemoryLimit": "it is of cgroup v1: MemoryMax is in its place",
    "BlockIOAccounting": "it is of cgroup v1: IOAccounting is in its place",
    "BlockIOWeight": "it is of cgroup v1: IOWeight is in its place",
    "StartupBlockIOWeight": "it is of cgroup v1: StartupIOWeight is in its place",
    "BlockIODeviceWeight": "it is of cgroup v1: IODeviceWeight is in its place",
    "BlockIOReadBandwidth": "it is of cgroup v1: IOReadBandwidthMax is in its place",
    "BlockIOWriteBandwidth": "it is of cgroup v1: IOWriteBandwidthMax is in its place",
    "CPUAffinity": "it is a service's: AllowedCPUs bounds a slice",
    "Delegate": "a slice delegates to nobody",
    "DelegateSubgroup": "a slice delegates to nobody",
    "Slice": "a session's slice is where it is",
    **dict.fromkeys(
        (
            "BPFProgram",
            "IPEgressFilterPath",
            "IPIngressFilterPath",
            "NFTSet",
            "RestrictNetworkInterfaces",
            "SocketBindAllow",
            "SocketBindDeny",
        ),
        "it needs privileges that a user's systemd does not have",
    ),
}


def find(name: str) -> Property:
    """The property of that name. Raises InvalidArgument `property_unknown`, with names that are near."""
    try:
        return PROPERTIES[name]
    except KeyError:
        raise unknown(name, _NOT_OFFERED.get(name, "")) from None


def unknown(name: str, why: str = "") -> InvalidArgument:
    """There is no such property to set."""
    by_lower = {known.lower(): known for known in PROPERTIES}
    import difflib  # Late: only a mistake needs it.

    near = [by_lower[word] for word in difflib.get_close_matches(name.lower(), by_lower, n=3)]
    if why:
        hint = "see `man systemd.resource-control`"
    elif near:
        hint = "did you mean " + ", ".join(near) + "?"
    else:
        hint = "among others there are MemoryMax, CPUQuota, TasksMax; see `man systemd.resource-control`"
    return InvalidArgument(
        "property_unknown",
        f"{name[:100]} cannot be set: {why or 'it is no resource-control property of systemd'}",
        hint=hint,
        fields={"property": name[:100]},
    )


def settings(wanted: Mapping[str, str], defaults: Mapping[str, Any]) -> list[Setting]:
    """What to set on a slice; ``defaults`` is what a slice nobody touched has, by the bus's names.

    An empty value resets. Raises InvalidArgument `property_unknown` or `property_invalid`.
    """
    found: list[Setting] = []
    for name, text in wanted.items():
        one = find(name)
        if one.bus not in defaults:
            raise unknown(name, "this version of systemd does not have it")
        found += one.settings(text.strip()) if text.strip() else one.reset(defaults[one.bus])
    return found


def check(wanted: Mapping[str, str]) -> None:
    """Raise what `settings` would, for a systemd that has every property."""
    settings(wanted, {one.bus: _ANY[one.kind.signature] for one in PROPERTIES.values()})


_ANY: dict[str, Any] = {
    "b": False,
    "t": 0,
    "u": 0,
    "s": "",
    "ay": b"",
    "a(st)": [],
    "a(ss)": [],
    "a(iayu)": [],
}


def differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, str]:
    """Properties that differ from the defaults, by their names and in the notation of unit files."""
    return {
        one.name: one.kind.format(values[one.bus])
        for one in PROPERTIES.values()
        if one.bus in values and one.bus in defaults and values[one.bus] != defaults[one.bus]
    }
