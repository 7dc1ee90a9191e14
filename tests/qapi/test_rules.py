"""Every rule of the schema language, each with the least schema that breaks it."""

from pathlib import Path

import pytest

from qmpserver.qapi import Schema, SchemaError


def load(tmp_path: Path, text: str, **files: str) -> Schema:
    """Load a schema from this text; more files are given as NAME=TEXT for NAME.json."""
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(content)
    root = tmp_path / "root.json"
    root.write_text(text)
    return Schema.load(root)


def refused(tmp_path: Path, text: str, **files: str) -> str:
    """Return the error that a schema makes, without the name of the root's directory."""
    with pytest.raises(SchemaError) as caught:
        load(tmp_path, text, **files)
    return str(caught.value).replace(f"{tmp_path}/", "")


SYNTAX = [
    ("{ 'enum' 'E' }", "root.json:1: expected ':'"),
    ("{ 'enum': 'E' 'data': [] }", "root.json:1: expected ',' or '}'"),
    ("{ 'enum': 'E', }", "root.json:1: expected a string, the name of a member"),
    ("{ , }", "root.json:1: expected a string, the name of a member"),
    ("{ true: 'E' }", "root.json:1: expected a string, the name of a member"),
    ("{ 'enum': }", "root.json:1: expected '{', '[', a string, true or false"),
    ("{ 'a': [ 'b' 'c' ] }", "root.json:1: expected ',' or ']'"),
    ("{ 'a': [ 'b',\n ] }", "root.json:2: expected '{', '[', a string, true or false"),
    ("{ 'a': [ 'b',\n", "root.json:2: expected '{', '[', a string, true or false"),
    ("{ 'a': [ 'b'\n", "root.json:2: expected ',' or ']'"),
    ("\n{ 'a': 'b', 'a': 'c' }", "root.json:2: key 'a' appears twice"),
    ("{ 'a': 12 }", "root.json:1: stray '12'"),
    ("{ 'a': null }", "root.json:1: stray 'null'"),
    ('{ "a": "b" }', "root.json:1: stray '\"'"),
    ("{ 'a': trueish }", "root.json:1: stray 'trueish'"),
    ("{ 'a': 'b\n' }", "root.json:1: string has no closing quote on its line"),
    ("{ 'a': 'b", "root.json:1: string has no closing quote on its line"),
    ("{ 'a': 'b\\n' }", "root.json:1: '\\n' is not an escape: only '\\\\' is"),
    ("{ 'a': 'caf\u00e9' }", "root.json:1: a string must be printable ASCII"),
    ("{ 'a': 'tab\there' }", "root.json:1: a string must be printable ASCII"),
    ("'enum'", "root.json:1: top-level expression must be an object"),
    ("\n[ ]", "root.json:2: top-level expression must be an object"),
    ("{ 'a': " + "[" * 60, "root.json:1: nested too deeply"),
]

DIRECTIVES = [
    ("{ 'include': 'a.json', 'x': 'y' }", "root.json:1: 'include' must be the only key of its"),
    ("{ 'include': [] }", "root.json:1: value of 'include' must be a string"),
    ("\n{ 'include': 'none.json' }", "root.json:2: cannot read 'none.json': No such file"),
    ("{ 'include': 'root.json' }", "root.json:1: 'root.json' includes itself"),
    ("{ 'pragma': {}, 'x': 'y' }", "root.json:1: 'pragma' must be the only key of its"),
    ("{ 'pragma': [] }", "root.json:1: value of 'pragma' must be an object"),
    ("{ 'pragma': { 'x': true } }", "root.json:1: 'x' is not a pragma"),
    ("{ 'pragma': { 'doc-required': 'x' } }", "'doc-required' must be true or false"),
    ("{ 'pragma': { 'command-name-exceptions': 'x' } }", "must be an array of strings"),
    ("{ 'pragma': { 'command-returns-exceptions': [true] } }", "must be an array of strings"),
    ("{ 'pragma': { 'member-name-exceptions': [[]] } }", "must be an array of strings"),
    ("{ 'pragma': { 'documentation-exceptions': true } }", "must be an array of strings"),
]

SHAPE = [
    ("{ 'data': {} }", "a definition must have exactly one of the keys 'enum', 'struct'"),
    ("{ 'enum': 'En', 'struct': 'Sn' }", "a definition must have exactly one of the keys"),
    ("{ 'struct': true }", "value of 'struct' must be a string"),
    ("{ 'struct': 'Sn' }", "struct 'Sn' lacks 'data'"),
    (
        "{ 'struct': 'Sn', 'data': {}, 'prefix': 'P' }",
        "struct 'Sn' cannot have 'prefix', only",
    ),
    ("{ 'enum': 'En', 'data': [], 'base': 'B' }", "enum 'En' cannot have 'base'"),
    ("{ 'union': 'Un', 'data': {} }", "union 'Un' lacks 'base', 'discriminator'"),
    ("{ 'alternate': 'An', 'data': { 'a': 'int' }, 'boxed': true }", "cannot have 'boxed'"),
    ("{ 'command': 'c', 'discriminator': 'd' }", "command 'c' cannot have 'discriminator'"),
    ("{ 'event': 'E', 'returns': 'S' }", "event 'E' cannot have 'returns'"),
    ("{ 'enum': 'En', 'data': {} }", "'data' of an enum must be an array"),
    ("{ 'enum': 'En', 'data': [], 'prefix': [] }", "'prefix' must be a string"),
    ("{ 'enum': 'En', 'data': [ true ] }", "a value of an enum must have a string as its name"),
    ("{ 'enum': 'En', 'data': [ {} ] }", "value of an enum lacks 'name'"),
    ("{ 'enum': 'En', 'data': [ { 'name': 'a', 'type': 'b' } ] }", "cannot have 'type'"),
    ("{ 'struct': 'Sn', 'data': 'T' }", "'data' of a struct must be an object"),
    ("{ 'struct': 'Sn', 'data': [] }", "'data' of a struct must be an object"),
    ("{ 'struct': 'Sn', 'data': {}, 'base': {} }", "'base' must be the name of a type"),
    ("{ 'struct': 'Sn', 'data': { 'a': true } }", "member 'a' must be an array type or the name"),
    ("{ 'struct': 'Sn', 'data': { 'a': {} } }", "member 'a' lacks 'type'"),
    ("{ 'struct': 'Sn', 'data': { 'a': { 'type': 'int', 'x': 'y' } } }", "cannot have 'x'"),
    ("{ 'struct': 'Sn', 'data': { 'a': [] } }", "an array type is the name of one type in"),
    ("{ 'struct': 'Sn', 'data': { 'a': ['int', 'int'] } }", "an array type is the name of one"),
    ("{ 'struct': 'Sn', 'data': { 'a': [['int']] } }", "an array type is the name of one type"),
    ("{ 'struct': 'Sn', 'data': { 'a': { 'type': { 'b': 'int' } } } }", "must be an array type or"),
    (
        "{ 'union': 'Un', 'base': ['B'], 'discriminator': 'd', 'data': {} }",
        "'base' must be an object or the name of a type",
    ),
    (
        "{ 'union': 'Un', 'base': {}, 'discriminator': [], 'data': {} }",
        "'discriminator' must be a string",
    ),
    (
        "{ 'union': 'Un', 'base': {}, 'discriminator': 'd', 'data': [] }",
        "'data' of a union must be an object",
    ),
    (
        "{ 'union': 'Un', 'base': {}, 'discriminator': 'd', 'data': { 'a': ['S'] } }",
        "branch 'a' must be the name of a type",
    ),
    (
        "{ 'union': 'Un', 'base': {}, 'discriminator': 'd',"
        " 'data': { 'a': { 'type': 'S', 'features': [] } } }",
        "branch 'a' cannot have 'features'",
    ),
    ("{ 'alternate': 'An', 'data': {} }", "an alternate must have at least one branch"),
    ("{ 'alternate': 'An', 'data': ['int'] }", "'data' of an alternate must be an object"),
    ("{ 'alternate': 'An', 'data': { 'a': {} } }", "branch 'a' lacks 'type'"),
    ("{ 'command': 'c', 'data': [] }", "'data' must be an object or the name of a type"),
    ("{ 'command': 'c', 'boxed': true }", "'boxed' needs 'data'"),
    ("{ 'event': 'E', 'boxed': true }", "'boxed' needs 'data'"),
    ("{ 'command': 'c', 'data': {}, 'boxed': true }", "'data' must be the name of a type"),
    ("{ 'event': 'E', 'data': { 'a': 'int' }, 'boxed': true }", "'data' must be the name of"),
    ("{ 'command': 'c', 'returns': {} }", "'returns' must be an array type or the name of"),
    ("{ 'command': 'c', 'gen': true }", "'gen' can only be false in command 'c'"),
    ("{ 'command': 'c', 'success-response': true }", "'success-response' can only be false"),
    ("{ 'command': 'c', 'boxed': false, 'data': 'S' }", "'boxed' can only be true"),
    ("{ 'command': 'c', 'allow-oob': false }", "'allow-oob' can only be true"),
    ("{ 'command': 'c', 'allow-preconfig': 'x' }", "'allow-preconfig' can only be true"),
    ("{ 'command': 'c', 'coroutine': false }", "'coroutine' can only be true"),
    ("{ 'command': 'c', 'allow-oob': true, 'coroutine': true }", "exclude each other"),
    ("{ 'command': 'c', 'features': 'f' }", "'features' of command 'c' must be an array"),
    ("{ 'command': 'c', 'features': [ [] ] }", "a feature of command 'c' must have a string"),
    ("{ 'command': 'c', 'features': [ {} ] }", "feature of command 'c' lacks 'name'"),
    ("{ 'command': 'c', 'features': [ { 'name': 'f', 'x': 'y' } ] }", "cannot have 'x'"),
    ("{ 'command': 'c', 'features': [ 'f', 'f' ] }", "feature 'f' of command 'c' appears twice"),
    ("{ 'struct': 'Sn', 'data': { 'a': { 'type': 'int', 'features': [ 'f', 'f' ] } } }", "twice"),
    ("{ 'command': 'c', 'if': true }", "'if' of command 'c' must be a string or an object"),
    ("{ 'command': 'c', 'if': '' }", "'if' of command 'c': '' is not the name of a condition"),
    ("{ 'command': 'c', 'if': 'lower' }", "'lower' is not the name of a condition"),
    ("{ 'command': 'c', 'if': ['A'] }", "'if' of command 'c' must be a string or an object"),
    ("{ 'command': 'c', 'if': {} }", "must have exactly one key"),
    ("{ 'command': 'c', 'if': { 'all': ['A'], 'any': ['B'] } }", "must have exactly one key"),
    ("{ 'command': 'c', 'if': { 'none': ['A'] } }", "cannot have 'none', only 'all', 'any', 'not'"),
    ("{ 'command': 'c', 'if': { 'all': 'A' } }", "'all' in 'if' of command 'c' must be a non-"),
    ("{ 'command': 'c', 'if': { 'any': [] } }", "'any' in 'if' of command 'c' must be a non-"),
    ("{ 'command': 'c', 'if': { 'not': ['A'] } }", "must be a string or an object"),
    (
        "{ 'command': 'c', 'if': { 'any': ['A', { 'not': 'b' }] } }",
        "'b' is not the name of a condition",
    ),
    ("{ 'enum': 'En', 'data': [ { 'name': 'a', 'if': 'b' } ] }", "'if' of value 'a'"),
    ("{ 'struct': 'Sn', 'data': { 'a': { 'type': 'int', 'if': 'b' } } }", "'if' of member 'a'"),
    ("{ 'alternate': 'An', 'data': { 'a': { 'type': 'int', 'if': 'b' } } }", "'if' of branch 'a'"),
    ("{ 'command': 'c', 'features': [ { 'name': 'f', 'if': 'b' } ] }", "'if' of feature 'f'"),
]

NAMES = [
    ("{ 'command': 'c_d' }", "name of command 'c_d' must have neither upper-case letters nor '_'"),
    ("{ 'command': 'cD' }", "name of command 'cD' must have neither upper-case letters nor '_'"),
    ("{ 'command': '1c' }", "command '1c' has an invalid name"),
    ("{ 'command': '-c' }", "command '-c' has an invalid name"),
    ("{ 'command': '' }", "command '' has an invalid name"),
    ("{ 'command': 'c d' }", "command 'c d' has an invalid name"),
    ("{ 'command': 'q_c' }", "command 'q_c' has an invalid name"),
    ("{ 'command': 'q-c' }", "command 'q-c' has an invalid name"),
    ("{ 'command': '_c' }", "command '_c' has an invalid name"),
    ("{ 'command': '__com.example-c' }", "has an invalid name"),
    ("{ 'event': 'Event' }", "name of event 'Event' must have neither lower-case letters nor '-'"),
    ("{ 'event': 'AN-EVENT' }", "name of event 'AN-EVENT' must have neither lower-case"),
    ("{ 'struct': 'thing', 'data': {} }", "name of struct 'thing' must be in CamelCase"),
    ("{ 'struct': 'THING', 'data': {} }", "name of struct 'THING' must be in CamelCase"),
    ("{ 'enum': 'My_Enum', 'data': [] }", "name of enum 'My_Enum' must be in CamelCase"),
    ("{ 'enum': 'EnumList', 'data': [] }", "name of enum 'EnumList' must not end in 'List'"),
    ("{ 'enum': 'E', 'data': [] }", "name of enum 'E' must be in CamelCase"),
    ("{ 'enum': 'En', 'data': [ 'A' ] }", "name of value 'A' must have neither upper-case"),
    ("{ 'enum': 'En', 'data': [ 'a_b' ] }", "name of value 'a_b' must have neither upper-case"),
    ("{ 'enum': 'En', 'data': [ '' ] }", "value '' has an invalid name"),
    ("{ 'enum': 'En', 'data': [ 'q-a' ] }", "value 'q-a' has an invalid name"),
    ("{ 'struct': 'Sn', 'data': { 'A': 'int' } }", "name of member 'A' must have neither"),
    ("{ 'struct': 'Sn', 'data': { 'a_b': 'int' } }", "name of member 'a_b' must have neither"),
    ("{ 'struct': 'Sn', 'data': { '1a': 'int' } }", "member '1a' has an invalid name"),
    ("{ 'struct': 'Sn', 'data': { '**a': 'int' } }", "member '*a' has an invalid name"),
    ("{ 'struct': 'Sn', 'data': { 'u': 'int' } }", "name of member 'u' is reserved"),
    ("{ 'struct': 'Sn', 'data': { '*has-a': 'int' } }", "name of member 'has-a' is reserved"),
    ("{ 'command': 'c', 'data': { 'A': 'int' } }", "name of member 'A' must have neither"),
    ("{ 'alternate': 'An', 'data': { 'A': 'int' } }", "name of branch 'A' must have neither"),
    ("{ 'command': 'c', 'features': [ 'F' ] }", "name of feature 'F' of command 'c' must have"),
]

BASE = """
{ 'enum': 'En', 'data': [ 'a', 'b' ] }
{ 'struct': 'St', 'data': { 'x': 'int' } }
{ 'alternate': 'Al', 'data': { 'i': 'int' } }
{ 'union': 'Un', 'base': { 'e': 'En' }, 'discriminator': 'e', 'data': { 'a': 'St' } }
"""

REFERENCES = [
    ("{ 'struct': 'St', 'data': {} }", "'St' is already defined, at root.json:3"),
    ("{ 'enum': 'QType', 'data': [] }", "'QType' is already defined, as built in"),
    ("{ 'command': 'int' }", "'int' is already defined, as built in"),
    (
        "{ 'struct': 'Sn', 'data': { 'a': 'No' } }",
        "member 'a' uses type 'No', which is not defined",
    ),
    ("{ 'struct': 'Sn', 'data': { 'a': ['No'] } }", "member 'a' uses type 'No', which is not"),
    ("{ 'struct': 'Sn', 'base': 'No', 'data': {} }", "'base' uses type 'No', which is not"),
    ("{ 'struct': 'Sn', 'base': 'int', 'data': {} }", "'base' must be a struct, not built-in type"),
    ("{ 'struct': 'Sn', 'base': 'Un', 'data': {} }", "'base' must be a struct, not union 'Un'"),
    ("{ 'struct': 'Sn', 'base': 'Sn', 'data': {} }", "struct 'Sn' contains itself"),
    (
        "{ 'struct': 'Sn', 'base': 'So', 'data': {} } { 'struct': 'So', 'base': 'Sn', 'data': {} }",
        "struct 'Sn' contains itself",
    ),
    ("{ 'struct': 'Sn', 'base': 'St', 'data': { 'x': 'int' } }", "member 'x' appears twice"),
    ("{ 'struct': 'Sn', 'data': { 'a': 'int', '*a': 'int' } }", "member 'a' appears twice"),
    ("{ 'command': 'c', 'data': { 'a': 'int', '*a': 'int' } }", "member 'a' appears twice"),
    ("{ 'event': 'EV', 'data': { 'a': 'int', '*a': 'int' } }", "member 'a' appears twice"),
    (
        "{ 'alternate': 'Am', 'data': { '__a.b_x': 'int', '__a-b_x': 'bool' } }",
        "branch '__a-b_x' clashes with '__a.b_x'",
    ),
    (
        "{ 'pragma': { 'member-name-exceptions': ['Sn'] } }"
        "{ 'struct': 'Sn', 'data': { 'a-b': 'int', 'a_b': 'int' } }",
        "member 'a_b' clashes with 'a-b'",
    ),
    ("{ 'enum': 'Eo', 'data': [ 'a', 'a' ] }", "value 'a' appears twice"),
    (
        "{ 'struct': 'Sn', 'data': {}, 'features': [ 'deprecated' ] }",
        "cannot have feature 'deprecated'",
    ),
    ("{ 'enum': 'Eo', 'data': [], 'features': [ 'unstable' ] }", "cannot have feature 'unstable'"),
    (
        "{ 'alternate': 'Am', 'data': { 'a': 'int' }, 'features': [ 'unstable' ] }",
        "alternate 'Am' cannot have feature 'unstable'",
    ),
    (
        "{ 'union': 'Uo', 'base': 'St', 'discriminator': 'e', 'data': {} }",
        "discriminator 'e' is not a member of 'base'",
    ),
    (
        "{ 'union': 'Uo', 'base': { 'e': 'str' }, 'discriminator': 'e', 'data': {} }",
        "discriminator 'e' must be of an enum type",
    ),
    (
        "{ 'union': 'Uo', 'base': { '*e': 'En' }, 'discriminator': 'e', 'data': {} }",
        "discriminator 'e' must not be optional",
    ),
    (
        "{ 'union': 'Uo', 'base': { 'e': { 'type': 'En', 'if': 'A' } }, 'discriminator': 'e',"
        " 'data': {} }",
        "discriminator 'e' must not depend on a condition",
    ),
    (
        "{ 'enum': 'Eo', 'data': [] }"
        "{ 'union': 'Uo', 'base': { 'e': 'Eo' }, 'discriminator': 'e', 'data': {} }",
        "union 'Uo' has no branch",
    ),
    (
        "{ 'union': 'Uo', 'base': { 'e': 'En' }, 'discriminator': 'e', 'data': { 'c': 'St' } }",
        "branch 'c' is not a value of enum 'En'",
    ),
    (
        "{ 'union': 'Uo', 'base': { 'e': 'En' }, 'discriminator': 'e', 'data': { 'a': 'int' } }",
        "branch 'a' must be a struct or union, not built-in type 'int'",
    ),
    (
        "{ 'union': 'Uo', 'base': { 'e': 'En' }, 'discriminator': 'e', 'data': { 'a': 'Un' } }",
        "in branch 'a' member 'e' appears twice",
    ),
    (
        "{ 'union': 'Uo', 'base': { 'e': 'En' }, 'discriminator': 'e', 'data': { 'a': 'No' } }",
        "branch 'a' uses type 'No', which is not defined",
    ),
    (
        "{ 'union': 'Uo', 'base': { 'e': 'En', 'x': 'int' }, 'discriminator': 'e',"
        " 'data': { 'a': 'St' } }",
        "in branch 'a' member 'x' appears twice",
    ),
    (
        "{ 'union': 'Uo', 'base': { 'f': 'En', 'x': 'int' }, 'discriminator': 'f',"
        " 'data': { 'a': 'Un' } }",
        "in branch 'a' member 'x' appears twice",
    ),
    (
        "{ 'union': 'Uo', 'base': { 'f': 'En' }, 'discriminator': 'f', 'data': { 'a': 'Uo' } }",
        "union 'Uo' contains itself",
    ),
    ("{ 'alternate': 'Am', 'data': { 'a': 'any' } }", "branch 'a' cannot be built-in type 'any'"),
    ("{ 'alternate': 'Am', 'data': { 'a': 'Al' } }", "branch 'a' cannot be alternate 'Al'"),
    ("{ 'alternate': 'Am', 'data': { 'a': 'No' } }", "branch 'a' uses type 'No', which is not"),
    (
        "{ 'alternate': 'Am', 'data': { 'a': 'int', 'b': 'number' } }",
        "'a' and 'b' have the same JSON type",
    ),
    (
        "{ 'alternate': 'Am', 'data': { 'a': 'St', 'b': 'Un' } }",
        "'a' and 'b' have the same JSON type",
    ),
    (
        "{ 'alternate': 'Am', 'data': { 'a': ['int'], 'b': ['str'] } }",
        "'a' and 'b' have the same JSON type",
    ),
    (
        "{ 'alternate': 'Am', 'data': { 'a': 'En', 'b': 'str' } }",
        "'a' and 'b' have the same JSON type",
    ),
    (
        "{ 'alternate': 'Am', 'data': { 'a': 'bool', 'b': 'str' } }",
        "'a' and 'b' have the same JSON type",
    ),
    (
        "{ 'alternate': 'Am', 'data': { 'a': 'str', 'b': 'int' } }",
        "'a' and 'b' have the same JSON type",
    ),
    (
        "{ 'enum': 'Eo', 'data': [ 'on' ] }"
        "{ 'alternate': 'Am', 'data': { 'a': 'Eo', 'b': 'bool' } }",
        "'a' and 'b' have the same JSON type",
    ),
    (
        "{ 'enum': 'Eo', 'data': [ '4k' ] }"
        "{ 'alternate': 'Am', 'data': { 'a': 'Eo', 'b': 'int' } }",
        "'a' and 'b' have the same JSON type",
    ),
    ("{ 'command': 'c', 'data': 'En' }", "'data' must be a struct or union, not enum 'En'"),
    ("{ 'command': 'c', 'data': 'No' }", "'data' uses type 'No', which is not defined"),
    ("{ 'command': 'c', 'data': 'Un' }", "'data' can be union 'Un' only with 'boxed': true"),
    ("{ 'event': 'EV', 'data': 'Un' }", "'data' can be union 'Un' only with 'boxed': true"),
    ("{ 'event': 'EV', 'data': 'Al', 'boxed': true }", "'data' must be a struct or union, not"),
    ("{ 'command': 'c', 'returns': 'No' }", "'returns' uses type 'No', which is not defined"),
    ("{ 'command': 'c', 'returns': 'int' }", "'returns' must be a struct, a union or an array"),
    ("{ 'command': 'c', 'returns': ['En'] }", "not array of enum 'En'"),
    ("{ 'command': 'c', 'returns': 'Al' }", "not alternate 'Al'"),
    ("{ 'command': 'c', 'returns': 'c' }", "'returns' uses type 'c', which is not defined"),
]

DOCS = [
    ("## x\n##\n", "root.json:1: nothing may follow '##' on its line"),
    ("##\n# a\n## x\n", "root.json:3: nothing may follow '##' on its line"),
    ("##\n#a\n##\n", "root.json:2: a space must follow '#'"),
    ("##\n# a\n", "root.json:3: documentation comment must end with '##'"),
    ("##\n# a\n{ 'command': 'c' }\n##\n", "root.json:3: documentation comment must end with"),
    ("{ 'command': 'c' ##\n##\n}", "root.json:1: expected ',' or '}'"),
    ("##\n# @c\n##\n{ 'command': 'c' }", "root.json:2: the line that names the documented"),
    ("##\n# @:\n##\n{ 'command': 'c' }", "root.json:2: a definition's name must follow '@'"),
    ("##\n# @c:\n##\n", "root.json:1: documentation of 'c' is not followed by its definition"),
    ("##\n# @c:\n##\n{ 'pragma': {} }", "root.json:1: documentation of 'c' is not followed by"),
    ("##\n# @c:\n##\n{ 'include': 'x' }", "root.json:1: documentation of 'c' is not followed by"),
    ("##\n# @c:\n##\n##\n# @d:\n##\n", "root.json:1: documentation of 'c' is not followed by"),
    ("##\n# text\n##\n{ 'command': 'c' }", "root.json:1: documentation right before a definition"),
    ("##\n# @d:\n##\n{ 'command': 'c' }", "root.json:4: the documentation before 'c' is of 'd'"),
    ("##\n# text\n# @c: x\n##\n", "root.json:3: '@c:' describes a member, which is not possible"),
    (
        "##\n# @c:\n# = Title\n##\n{ 'command': 'c' }",
        "root.json:3: a definition's documentation cannot have a heading",
    ),
    ("##\n# @c:\n# @a: x\n##\n{ 'command': 'c' }", "root.json:3: documented member 'a' does not"),
    (
        "##\n# @c:\n# @a: x\n# @a: y\n##\n{ 'command': 'c', 'data': { 'a': 'int' } }",
        "root.json:4: '@a:' is described twice",
    ),
    (
        "##\n# @c:\n# @a:\n##\n{ 'command': 'c', 'data': { 'a': 'int' } }",
        "root.json:3: section 'a' has no text",
    ),
    ("##\n# @c:\n# @: x\n##\n{ 'command': 'c' }", "root.json:3: a name must stand between '@'"),
    (
        "##\n# @c:\n# Since: 1\n# @a: x\n##\n{ 'command': 'c', 'data': { 'a': 'int' } }",
        "root.json:4: '@a:' must come before the tagged and closing sections",
    ),
    ("##\n# @c:\n# Since: 1\n# Since: 2\n##\n{ 'command': 'c' }", "section 'Since' appears twice"),
    ("##\n# @c:\n# Returns: a\n# Returns: b\n##\n{ 'command': 'c' }", "'Returns' appears twice"),
    ("##\n# @c:\n# Note:\n#\n##\n{ 'command': 'c' }", "root.json:3: section 'Note' has no text"),
    ("##\n# @EV:\n# Returns: a\n##\n{ 'event': 'EV' }", "only a command can have a section"),
    ("##\n# @c:\n# Note: a\n# b\n##\n{ 'command': 'c' }", "root.json:4: line is indented less"),
    (
        "##\n# @c:\n# @a: one\n#     two\n#   three\n##\n"
        "{ 'command': 'c', 'data': { 'a': 'int' } }",
        "root.json:5: line is indented less",
    ),
    (
        "##\n# @c:\n##\n{ 'command': 'c', 'features': [ 'f' ] }",
        "root.json:4: feature 'f' is not documented",
    ),
    (
        "##\n# @c:\n##\n"
        "{ 'command': 'c', 'data': { 'a': { 'type': 'int', 'features': [ 'f' ] } } }",
        "root.json:4: feature 'f' is not documented",
    ),
    (
        "##\n# @c:\n# Features:\n# @f: x\n##\n{ 'command': 'c' }",
        "root.json:4: documented feature 'f' does not exist",
    ),
    ("{ 'pragma': { 'doc-required': true } }\n{ 'command': 'c' }", "root.json:2: command 'c' must"),
    # What is described must be the definition's own.
    (BASE + "##\n# @c:\n# @x: x\n##\n{ 'command': 'c', 'data': 'St' }", "member 'x' does not"),
    (
        BASE + "##\n# @Sn:\n# @x: x\n##\n{ 'struct': 'Sn', 'base': 'St', 'data': {} }",
        "member 'x' does not exist",
    ),
    (
        BASE + "##\n# @Uo:\n# @a: x\n##\n{ 'union': 'Uo', 'base': { 'e': 'En' },"
        " 'discriminator': 'e', 'data': { 'a': 'St' } }",
        "member 'a' does not exist",
    ),
]


@pytest.mark.parametrize(("text", "message"), SYNTAX + DIRECTIVES + SHAPE + NAMES + DOCS)
def test_breaking_a_rule(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, text)


@pytest.mark.parametrize(("text", "message"), REFERENCES)
def test_breaking_a_rule_about_others(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, BASE + text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing but a comment",
        "{ 'enum': 'En', 'data': [] }",
        "{ 'enum': 'En', 'data': [ '1st', 'x-y', '__com.example_z' ] }",
        "{ 'command': 'x-c', 'data': { 'x-a': 'int' } }",
        "{ 'command': '__com.example_c' }",
        "{ 'struct': '__com.example_Sn', 'data': {} }",
        "{ 'event': '__com.example_EVENT_2' }",
        "{ 'command': 'c', 'data': { 'a': { 'type': ['size'], 'if': { 'not': 'A_1' } } } }",
        "{ 'pragma': { 'command-name-exceptions': ['a_b'] } } { 'command': 'a_b' }",
        "{ 'pragma': { 'command-returns-exceptions': ['c'] } }{ 'command': 'c', 'returns': 'int' }",
        # A pragma holds for the whole schema, also for what stands before it.
        "{ 'struct': 'Sn', 'data': { 'A_b': 'int' } } "
        "{ 'pragma': { 'member-name-exceptions': ['Sn'] } }",
        "{ 'struct': 'Sn', 'data': { '*next': 'Sn', 'all': ['Sn'] } }",
        BASE + "{ 'alternate': 'Am', 'data': { 'n': 'null', 's': 'En', 'i': 'int', 'o': 'Un',"
        " 'l': ['int'], 'b': 'bool' } }",
        BASE + "{ 'union': 'Uo', 'base': { 'f': 'En' }, 'discriminator': 'f',"
        " 'data': { 'a': 'Un', 'b': 'Un' } }",
        BASE + "{ 'command': 'c', 'data': 'Un', 'boxed': true, 'returns': ['Un'] }",
        "{'command':'c'}{'event':'EV'}# the end",
        "##\n# = Title\n#\n# text\n# == Another\n##\n##\n# @c:\n##\n{ 'command': 'c' }",
        "##\n\n# @c:\n  # text\n\n  ##\n{ 'command': 'c' }",
        # As in later releases of QEMU: text between descriptions, paragraphs after a section.
        "##\n# @c:\n#\n# @a: a\n#\n# Text.\n#\n# Features:\n#\n# @f: f\n#     f\n##\n"
        "{ 'command': 'c', 'data': { 'a': 'int' }, 'features': [ 'f' ] }",
        "##\n# @c:\n# one\n#\n# two: three\n#\n# Since: 1\n#\n# .. note:: x\n##\n"
        "{ 'command': 'c' }",
    ],
)
def test_keeping_the_rules(tmp_path: Path, text: str) -> None:
    load(tmp_path, text)


def test_escape_of_the_backslash(tmp_path: Path) -> None:
    assert "'a\\b' is not a pragma" in refused(tmp_path, "{ 'pragma': { 'a\\\\b': true } }")


def test_include_reads_each_file_once(tmp_path: Path) -> None:
    shared = "{ 'enum': 'En', 'data': [] }"
    schema = load(
        tmp_path,
        "{ 'include': 'a.json' } { 'include': 'b.json' } { 'command': 'c', 'data': 'Sn' }",
        a="{ 'include': 'shared.json' } { 'struct': 'Sn', 'data': { 'e': 'En' } }",
        b="{ 'include': 'shared.json' }",
        shared=shared,
    )
    assert list(schema.types) == ["En", "Sn"]


def test_include_is_relative_to_the_file_it_stands_in(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.json").write_text("{ 'command': 'c' }")
    (tmp_path / "sub" / "a.json").write_text("{ 'include': 'b.json' }")
    assert "c" in load(tmp_path, "{ 'include': 'sub/a.json' }").commands


def test_include_in_a_circle(tmp_path: Path) -> None:
    message = refused(
        tmp_path,
        "{ 'include': 'a.json' }",
        a="\n{ 'include': 'b.json' }",
        b="{ 'include': 'a.json' }",
    )
    assert message == "b.json:1: 'a.json' includes itself"


def test_error_names_the_included_file(tmp_path: Path) -> None:
    message = refused(tmp_path, "{ 'include': 'a.json' }", a="# one\n\n{ 'command': 'C' }")
    assert message.startswith("a.json:3: name of command 'C'")


def test_unreadable_root(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"none\.json: cannot read the schema: No such file"):
        Schema.load(tmp_path / "none.json")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(SchemaError, match=r"root\.json:2: text is not UTF-8"):
        Schema.load(root)
