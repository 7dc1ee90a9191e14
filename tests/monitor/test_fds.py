"""The store of passed descriptors: whatever leaves it is closed."""

import errno
import os

import pytest

from qmpserver.monitor import fds
from qmpserver.monitor.fds import FileDescriptors
from qmpserver.qmp import CommandError


def opened() -> int:
    return os.open(os.devnull, os.O_RDONLY)


def closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def test_names() -> None:
    store = FileDescriptors()
    first, second, other = opened(), opened(), opened()
    store.keep("m", "name", first)
    store.keep("other", "name", other)
    store.keep("m", "name", second)
    assert [closed(fd) for fd in (first, second, other)] == [True, False, False]
    store.drop("m", "name")
    assert [closed(fd) for fd in (second, other)] == [True, False]
    with pytest.raises(CommandError, match="File descriptor named 'name' not found"):
        store.drop("m", "name")
    store.close()
    assert closed(other)


def test_a_taken_descriptor_stays_open() -> None:
    store = FileDescriptors()
    fd = opened()
    store.keep("m", "name", fd)
    with pytest.raises(CommandError, match="File descriptor named 'name' has not been found"):
        store.take("other", "name")
    assert store.take("m", "name") == fd
    with pytest.raises(CommandError, match="has not been found"):
        store.take("m", "name")
    store.close()
    assert not closed(fd)
    os.close(fd)


def test_refused_descriptors_are_closed() -> None:
    store = FileDescriptors()
    named, numbered = opened(), opened()
    with pytest.raises(CommandError, match="a name not starting with a digit"):
        store.keep("m", "1", named)
    with pytest.raises(CommandError, match="a non-negative value"):
        store.add(numbered, -1, None)
    assert closed(named)
    assert closed(numbered)


def test_sets() -> None:
    store = FileDescriptors()
    fds = [opened() for _ in range(4)]
    assert [store.add(fds[0], None, "a"), store.add(fds[1], 2, None)] == [0, 2]
    assert [store.add(fds[2], 2, "c"), store.add(fds[3], None, None)] == [2, 1]
    assert list(store.sets) == [2, 1, 0]
    assert store.sets[2] == [(fds[1], None), (fds[2], "c")]
    store.remove(2, fds[1])
    assert [closed(fd) for fd in fds] == [False, True, False, False]
    store.remove(0)
    with pytest.raises(CommandError, match="fdset-id:0, fd:7"):
        store.remove(0, 7)
    store.close()
    assert all(map(closed, fds))


@pytest.mark.parametrize(
    ("path", "flags", "code", "words"),
    [
        ("/dev/fdset/9", os.O_RDONLY, errno.ENOENT, "Failed to find fdset /dev/fdset/9"),
        ("/dev/fdset/x", os.O_RDONLY, errno.EINVAL, "Could not parse fdset /dev/fdset/x"),
        ("/dev/fdset/", os.O_RDONLY, errno.EINVAL, "Could not parse fdset /dev/fdset/"),
        ("/dev/fdset/3", os.O_WRONLY, errno.EACCES, "matching flags=0x1"),
    ],
)
def test_a_member_that_is_not_there(path: str, flags: int, code: int, words: str) -> None:
    store = FileDescriptors()
    store.add(opened(), 3, None)
    with pytest.raises(OSError, match=words) as raised:
        store.duplicate(path, flags)
    assert raised.value.errno == code
    store.close()


def test_a_duplicate_outlives_its_set() -> None:
    store = FileDescriptors()
    store.add(opened(), 3, None)
    fd = store.duplicate("/dev/fdset/3", os.O_RDONLY | os.O_CLOEXEC)
    store.close()
    assert not closed(fd)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_what_was_inherited() -> None:
    """It can be taken once; descriptors of this process's own cannot."""
    ours, inherited = opened(), opened()
    os.set_inheritable(inherited, True)
    assert fds.take_inherited(str(inherited)) == inherited
    for number in (str(inherited), str(ours), "1", "9" * 30, "999"):
        with pytest.raises(CommandError, match=f"named '{number}' has not been found"):
            fds.take_inherited(number)
    os.close(ours)
    os.close(inherited)


def test_a_bound_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fds, "MAX_KEPT", 2)
    store = FileDescriptors()
    store.keep("m", "name", opened())
    number = store.add(opened(), None, None)
    named, numbered = opened(), opened()
    with pytest.raises(CommandError, match="no more than 2 file descriptors are kept"):
        store.keep("m", "other", named)
    with pytest.raises(CommandError, match="no more than 2 file descriptors are kept"):
        store.add(numbered, None, None)
    assert closed(named)
    assert closed(numbered)
    store.remove(number)
    store.keep("m", "other", opened())
    store.close()


def test_a_bound_of_names_and_notes() -> None:
    store = FileDescriptors()
    text = "x" * (fds.MAX_TEXT + 1)
    named, noted = opened(), opened()
    with pytest.raises(CommandError, match="has at most 1024 letters"):
        store.keep("m", text, named)
    with pytest.raises(CommandError, match="has at most 1024 letters"):
        store.add(noted, 0, text)
    assert closed(named)
    assert closed(noted)
    store.keep("m", text[1:], opened())
    store.close()
