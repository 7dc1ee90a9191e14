"""The command line: `python -m qmpserver.qapi check|doc|types|introspect|compile FILE`."""

import argparse
import json
import sys
from pathlib import Path

from qmpserver.qapi.introspect import compiled
from qmpserver.qapi.markdown import markdown
from qmpserver.qapi.schema import Schema
from qmpserver.qapi.source import SchemaError
from qmpserver.qapi.typed import python_types


def main(argv: list[str] | None = None) -> int:
    """Run the program; return its exit status: 0, or 1 after printing the schema's first error."""
    parser = argparse.ArgumentParser(
        prog="python -m qmpserver.qapi",
        description="Check a QAPI schema, or generate output from it.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("check", "check the schema"),
        ("doc", "write a reference in Markdown"),
        ("types", "write a Python module with the types of handlers"),
        ("introspect", "write the result of query-qmp-schema, as JSON"),
        ("compile", "write what Schema.from_compiled reads"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("file", help="the schema's root file")
        action.add_argument(
            "-D", dest="conditions", action="append", default=None, metavar="NAME",
            help="a condition that holds in 'if'; 'check', 'doc' and 'types' keep all without -D",
        )  # fmt: skip
        action.add_argument(
            "-o", dest="output", help="write to this file instead of standard output"
        )
        if name == "doc":
            action.add_argument("--title", default="QMP reference", help="the reference's title")
    options = parser.parse_args(argv)
    conditions = options.conditions
    if conditions is None and options.action in ("introspect", "compile"):
        conditions = ()
    try:
        schema = Schema.load(options.file, conditions)
    except SchemaError as error:
        print(error, file=sys.stderr)
        return 1
    if options.action == "doc":
        text = markdown(schema, options.title)
    elif options.action == "types":
        text = python_types(schema, options.file)
    elif options.action == "introspect":
        text = json.dumps(schema.introspect(), indent=2) + "\n"
    elif options.action == "compile":
        infos = compiled(schema.commands.values(), schema.events.values())
        text = "[\n" + ",\n".join(map(json.dumps, infos)) + "\n]\n"
    else:
        return 0
    if options.output is None:
        sys.stdout.write(text)
    else:
        Path(options.output).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
