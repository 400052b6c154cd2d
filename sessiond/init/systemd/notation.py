"""How unit files write values (`2G`, `150%`, `500ms`, `0-3 5`), to and from the numbers behind them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network, ip_network

INFINITY = 2**64 - 1
SCALE = 2**32 - 1

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([BKMGTPE]?)")
_PERCENT = re.compile(r"(\d+(?:\.\d{1,2})?)%")
_TIME_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*")
_SUFFIXES = "BKMGTPE"

_TIME_UNITS = {
    **dict.fromkeys(("us", "usec", "µs"), 1),
    **dict.fromkeys(("ms", "msec"), 1_000),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1_000_000),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60_000_000),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3_600_000_000),
    **dict.fromkeys(("d", "day", "days"), 86_400_000_000),
}
_NETWORKS = {
    "any": ("0.0.0.0/0", "::/0"),
    "localhost": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/64"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
}
_AF_INET, _AF_INET6 = 2, 10


def parse_bool(text: str) -> bool:
    """Systemd's words for yes and no. Raises ValueError, as all here."""
    word = text.lower()
    if word in ("1", "yes", "y", "true", "t", "on"):
        return True
    if word in ("0", "no", "n", "false", "f", "off"):
        return False
    raise ValueError("yes or no is wanted")


def parse_count(text: str, least: int = 0, most: int = INFINITY - 1) -> int:
    """A whole number."""
    if not re.fullmatch(r"\d+", text):
        raise ValueError("a whole number is wanted")
    number = int(text)
    if not least <= number <= most:
        raise ValueError(f"a number from {least} to {most} is wanted")
    return number


def parse_size(text: str, base: int = 1024) -> int:
    """A number with an optional suffix K to E of the base."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError("a size such as 500M or 2G is wanted")
    size = int(Decimal(found[1]) * base ** _SUFFIXES.index(found[2] or "B"))
    if size >= INFINITY:
        raise ValueError("the size is too large")
    return size


def format_size(size: int, base: int = 1024) -> str:
    """The size with the largest suffix that leaves a whole number."""
    power = 0
    while size and size % base == 0 and power < len(_SUFFIXES) - 1:
        size //= base
        power += 1
    return f"{size}{_SUFFIXES[power] if power else ''}"


def parse_percent(text: str) -> Decimal | None:
    """The number before a percent sign, or None where there is no such sign."""
    if not text.endswith("%"):
        return None
    found = _PERCENT.fullmatch(text)
    if not found:
        raise ValueError("a percentage such as 50% is wanted")
    return Decimal(found[1])


def format_percent(hundredths: Decimal) -> str:
    """A percentage, with as many digits as it needs, at most two behind the point."""
    text = format(hundredths.quantize(Decimal("0.01")), "f").rstrip("0").rstrip(".")
    return f"{text}%"


def parse_time(text: str) -> int:
    """A time span in microseconds: `500ms`, `1min 30s`, a bare number of seconds."""
    total, position = Decimal(0), 0
    while position < len(text):
        found = _TIME_PART.match(text, position)
        if not found or found[2] not in _TIME_UNITS:
            raise ValueError("a time such as 500ms or 2s is wanted")
        total += Decimal(found[1]) * _TIME_UNITS[found[2]]
        position = found.end()
    if not text or total >= INFINITY:
        raise ValueError("a time such as 500ms or 2s is wanted")
    return int(total)


def format_time(usec: int) -> str:
    """A time span in the largest unit that leaves a whole number."""
    for unit, size in (("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000)):
        if usec and usec % size == 0:
            return f"{usec // size}{unit}"
    return f"{usec // 1000}ms" if usec % 1000 == 0 and usec else f"{usec}us"


def parse_mask(text: str) -> bytes:
    """A set of small numbers, `0-3,5 7`, as a mask of bits, lowest byte first."""
    mask = 0
    for part in text.replace(",", " ").split():
        found = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if not found:
            raise ValueError("numbers or ranges such as 0-3 5 are wanted")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last >= 8192:
            raise ValueError(f"{part} is not a range of numbers below 8192")
        mask |= (1 << (last + 1)) - (1 << first)
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def format_mask(mask: Iterable[int]) -> str:
    """Ranges, separated by spaces."""
    bits = int.from_bytes(bytes(mask), "little")
    ranges, number = [], 0
    while bits >> number:
        if bits >> number & 1:
            first = number
            while bits >> (number + 1) & 1:
                number += 1
            ranges.append(str(first) if first == number else f"{first}-{number}")
        number += 1
    return " ".join(ranges)


def parse_networks(text: str) -> list[list[int | bytes]]:
    """Addresses and networks, or systemd's words for some, as (family, address, prefix length)."""
    words = [network for word in text.split() for network in _NETWORKS.get(word, (word,))]
    try:
        return [_network(ip_network(word)) for word in words]
    except ValueError as error:
        raise ValueError(f"addresses such as 10.0.0.0/8, localhost or any are wanted ({error})") from error


def _network(network: IPv4Network | IPv6Network) -> list[int | bytes]:
    family = _AF_INET if network.version == 4 else _AF_INET6
    return [family, network.network_address.packed, network.prefixlen]


def format_networks(rows: Iterable[tuple[int, bytes, int]]) -> str:
    """Networks in order, separated by spaces: systemd keeps them as a set, in another order each boot."""
    ordered = sorted((family, bytes(address), prefix) for family, address, prefix in rows)
    return " ".join(str(ip_network((address, prefix))) for _, address, prefix in ordered)
