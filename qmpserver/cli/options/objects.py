"""Objects of `-object`: memory backends, one of which is the RAM, and secrets that nobody reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qmpserver.cli.settings import CommandLineError
from qmpserver.cli.table import WithFake, option
from qmpserver.files import read_bytes
from qmpserver.keyval import (
    IDENTIFIER,
    Kind,
    OptionError,
    kinds,
    parse_bool,
    parse_members,
    parse_size,
)

if TYPE_CHECKING:
    from qmpserver.cli.settings import Settings

_BACKEND = kinds(size="size", boolean="share")
_TYPES = {
    "memory-backend-ram": _BACKEND,
    "memory-backend-memfd": _BACKEND,
    "memory-backend-file": _BACKEND | kinds(string="mem-path"),
    "secret": kinds(string="format data file keyid iv"),
}
_NEEDED = {"secret": (), "memory-backend-file": ("size", "mem-path")}
_RAM_STEP = 8 << 10  # as that of -m


@option(
    "object",
    "TYPE,id=ID[,PROPERTY=VALUE...]",
    "the RAM of -machine memory-backend=ID: memory-backend-ram, -memfd or -file; or a secret",
    with_fake=WithFake.IGNORED,
)
def add_object(settings: Settings, value: str) -> None:
    """Add an object."""
    given = parse_members(value, "qom-type")
    kind, name = given.pop("qom-type", None), given.pop("id", None)
    if kind is None:
        raise OptionError("Parameter 'qom-type' is missing")
    if kind not in _TYPES:
        raise OptionError(f"Parameter 'qom-type' does not accept value '{kind}'")
    if name is None:
        raise OptionError("Parameter 'id' is missing")
    if not re.fullmatch(IDENTIFIER, name):
        raise OptionError(
            "Parameter 'id' expects an identifier",
            "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
        )
    if name in settings.objects:
        raise OptionError(f"Duplicate ID '{name}' for object")
    for key in given:
        if key not in _TYPES[kind]:
            raise OptionError(f"Invalid parameter '{key}'")
    properties = {key: _typed(key, _TYPES[kind][key], one) for key, one in given.items()}
    for key in _NEEDED.get(kind, ("size",)):
        if key not in properties:
            raise OptionError(f"Parameter '{key}' is missing")
    if kind == "secret":
        _check_secret(properties)
    else:
        _check_backend(kind, properties)
    settings.objects[name] = kind, properties


def take_memory_backend(settings: Settings) -> None:
    """Make the RAM what `-machine memory-backend=` says.

    Raises:
        CommandLineError: There is no such backend, it has another size than `-m`, or there is
            another backend, for which this machine has no place.
    """
    used = settings.memory_backend
    backends = {name: one for name, (kind, one) in settings.objects.items() if kind != "secret"}
    if used is not None and used not in backends:
        raise CommandLineError(f"Memory backend '{used}' not found")
    for name, properties in backends.items():
        if name != used:
            raise CommandLineError(
                f"memory backend '{name}' is not the machine's RAM",
                f"Use -machine memory-backend={name}",
            )
        if "m" in settings.given and settings.ram != properties["size"]:
            raise CommandLineError(
                "Machine memory size does not match the size of the memory backend"
            )
        settings.ram = properties["size"]
        settings.ram_file = properties.get("mem-path")


def _typed(name: str, kind: Kind, value: object) -> Any:
    """Return a property's value, which in JSON has a type of its own."""
    if isinstance(value, str):
        if kind is Kind.BOOL:
            return parse_bool(name, value)
        if kind is Kind.SIZE:
            try:
                return parse_size(name, value)
            except OptionError:
                raise OptionError(f"Parameter '{name}' expects a size value") from None
        return value
    expected = {Kind.BOOL: bool, Kind.SIZE: int}.get(kind, str)
    if type(value) is not expected:
        words = {bool: "boolean", int: "integer", str: "string"}[expected]
        raise OptionError(f"Invalid parameter type for '{name}', expected: {words}")
    return value


def _check_backend(kind: str, properties: dict[str, Any]) -> None:
    size = properties["size"]
    if size == 0:
        raise CommandLineError(f"property 'size' of {kind} doesn't take value '0'")
    if size % _RAM_STEP or not 0 < size < 1 << 46:
        raise OptionError(f"the size of RAM is a multiple of {_RAM_STEP} below 64 TiB")
    if kind == "memory-backend-file" and not properties.get("share"):
        raise OptionError("this program shares its RAM with the file; expected share=on")


def _check_secret(properties: dict[str, Any]) -> None:
    if properties.get("format", "raw") not in ("raw", "base64"):
        raise OptionError(f"Parameter 'format' does not accept value '{properties['format']}'")
    data, path = properties.pop("data", None), properties.get("file")
    if data is not None and path is not None:
        raise CommandLineError("'file' and 'data' are mutually exclusive")
    if path is not None:
        try:
            read_bytes(path)
        except OSError as error:
            raise CommandLineError(f"Unable to read {path}: {error.strerror}") from None
        except ValueError as error:
            raise OptionError(str(error)) from None
    elif data is None:
        raise CommandLineError("Either 'file' or 'data' must be provided")
