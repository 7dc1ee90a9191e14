"""Opening and reading files that users name: what is refused, and that nothing waits."""

import errno
import gzip
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qmpserver import files
from qmpserver.files import open_regular, open_text, read_bytes, read_text
from qmpserver.qapi import SchemaError
from qmpserver.standin import vocabulary
from tests.conftest import Until, readable


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_text_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open_text(str(path)) as first, open_text(str(path)) as second:
        first.write("1\n")
        first.flush()
        second.write("2\n")
    assert path.read_text() == "1\n2\n"
    with open_text(str(path), os.O_TRUNC):
        assert path.read_text() == ""


def test_as_many_bytes_as_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, largest=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes") as refused:
        read_bytes(path, largest=4)
    assert (refused.value.errno, refused.value.filename) == (errno.EFBIG, str(path))


def test_a_device_without_an_end() -> None:
    with pytest.raises(OSError, match="more than 3000000 bytes"):
        read_bytes("/dev/zero", largest=3_000_000)


def test_lines_end_as_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\r\nb\rc\n\xc3\xa4")
    assert read_text(path) == path.read_text(encoding="utf-8") == "a\nb\nc\nä"
    path.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(path)


@pytest.mark.parametrize("open_it", [read_bytes, open_text, open_regular])
def test_a_null_byte(open_it: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="embedded null byte"):
        open_it("a\0b")


def test_only_regular_files(tmp_path: Path, fifo: Path) -> None:
    for path in (tmp_path, fifo, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_bytes(path, regular=True)
    for path in (fifo, Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(str(path))


def test_errors_name_the_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(OSError) as refused:  # noqa: PT011 -- the system's words
            read_bytes(path)
        assert refused.value.filename == str(path)


def test_a_pipe_without_its_other_side(fifo: Path) -> None:
    with pytest.raises(OSError, match="nobody writes to this pipe"):
        read_bytes(fifo)
    with pytest.raises(OSError, match="nobody reads this pipe"):
        open_text(str(fifo))


def test_a_pipe_is_read_to_its_end(until: Until) -> None:
    """Also if its writer takes a pause."""
    source, sink = os.pipe()
    os.write(sink, b"1")

    def write() -> None:
        until(lambda: not readable(source, 0))
        os.write(sink, b"2")
        os.close(sink)

    writer = threading.Thread(target=write)
    writer.start()
    assert read_bytes(f"/dev/fd/{source}") == b"12"
    writer.join()
    os.close(source)


def test_a_pipe_that_is_full(fifo: Path) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    file = open_text(str(fifo))
    file.write("x" * 1_000_000)
    file.flush()
    with pytest.raises(BlockingIOError):
        file.write("x" * 1_000_000)
    with pytest.raises(BlockingIOError):
        file.close()
    os.close(reader)


@pytest.mark.slow
def test_a_schema_that_grows_when_it_is_decompressed(tmp_path: Path) -> None:
    path = tmp_path / "schema.gz"
    path.write_bytes(gzip.compress(bytes(files.LARGEST + 1)))
    with pytest.raises(SchemaError, match=f"decompressed: it has more than {files.LARGEST} "):
        vocabulary.load("schema.gz", tmp_path)
