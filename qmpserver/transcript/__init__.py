"""Conversations with a QMP server as text: the format, recording, comparing and replaying.

Tools, the stand-in and the pytest plugin share this package. It imports none of them, and no
server; its callers open files and sockets.

Each name is imported from its module: a stand-in that compares values needs no format.

- `message`, `splitter`: one message; the text of one side, cut into messages.
- `format`, `captured`: text to conversation: this project's format, and what other programs wrote.
- `compare`: the values and messages that a transcript expects, and those that came.
- `conversation`: the messages of a running server, kept within bounds.
- `compare_conversation`: such a conversation beside a transcript (the fixture `qmp_transcript`).
- `replay`: plays the client's part to a server (`qmpctl replay`).
- `replay_exact`: the same for a transcript with the rule `exact`.
- `recording`: passes bytes between two connections and writes a transcript.
"""
