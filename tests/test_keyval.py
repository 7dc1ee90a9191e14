"""Option strings: syntax, values and QEMU's error messages."""

import pytest

from qmpserver.keyval import Kind, OptionError, parse_options, parse_size

KINDS = {
    "path": Kind.STRING,
    "server": Kind.BOOL,
    "wait": Kind.BOOL,
    "port": Kind.NUMBER,
    "size": Kind.SIZE,
}


def test_values() -> None:
    options = parse_options(
        "a,,b,server=on,wait=no,port=0x10,size=1.5k,id=x1", KINDS, implied="path"
    )
    assert options.string("path") == "a,b"
    assert options.bool("server") is True
    assert options.bool("wait", True) is False
    assert options.number("port") == 16
    assert options.number("size") == 1536
    assert options.id == "x1"
    assert "server" in options
    assert sorted(options) == ["path", "port", "server", "size", "wait"]


def test_defaults() -> None:
    options = parse_options("", KINDS)
    assert options.string("path") is None
    assert options.bool("wait", True) is True
    assert options.number("port", 7) == 7
    assert options.id is None


def test_short_forms() -> None:
    options = parse_options("path=x,server,nowait", KINDS)
    assert options.bool("server") is True
    assert options.bool("wait", True) is False
    assert options.short_forms == ["server", "nowait"]


def test_the_last_of_several_counts() -> None:
    assert parse_options("path=x,path=y=z,", KINDS).string("path") == "y=z"


def test_undeclared_options_are_strings() -> None:
    assert parse_options("kvm,dirty-ring-size=4096", implied="accel").string("accel") == "kvm"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo=1", "Invalid parameter 'foo'"),
        ("nofoo", "Invalid parameter 'foo'"),
        ("server=maybe", "Parameter 'server' expects 'on' or 'off'"),
        ("port=x", "Parameter 'port' expects a number"),
        ("port=1x", "Parameter 'port' expects a number"),
        ("port=", "Parameter 'port' expects a number"),
        (
            "port=99999999999999999999",
            "Value '99999999999999999999' is too large for parameter 'port'",
        ),
        ("size=-1", "Parameter 'size' expects a non-negative number below 2^64"),
        ("size=1.5", "Parameter 'size' expects a non-negative number below 2^64"),
        ("size=1e3", "Parameter 'size' expects a non-negative number below 2^64"),
        ("size=16E", "Value '16E' is out of range for parameter 'size'"),
        ("id=1a", "Parameter 'id' expects an identifier"),
        ("server=x,foo=1", "Parameter 'server' expects 'on' or 'off'"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(OptionError) as refusal:
        parse_options(text, KINDS)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1k", 1024),
        ("1K", 1024),
        ("512M", 512 << 20),
        ("1.5G", 3 << 29),
        ("1.k", 1024),
        ("0.5k", 512),
        ("0x20", 32),
        ("0x2E", 46),
        ("1b", 1),
        ("15E", 15 << 60),
        ("0.00000000000000000001E", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size("size", text) == size


def test_size_in_another_unit() -> None:
    assert parse_size("size", "128", default_suffix="M") == 128 << 20


@pytest.mark.parametrize("text", ["0x20M", "0x1.8", "0x", "1e3", "-1", "k", ""])
def test_no_sizes(text: str) -> None:
    with pytest.raises(OptionError):
        parse_size("size", text)


def test_size_refusal_has_a_hint() -> None:
    with pytest.raises(OptionError) as refusal:
        parse_size("size", "much")
    assert refusal.value.hint.startswith("Optional suffix k, M, G, T, P or E means")
