"""Images that commands create: their files, if the scenario has images, and their nodes.

A file is sparse, whatever preallocation a client wants, and one of a format other than `raw` and
`qcow2` stays empty. Only regular files are written. They are written on the event loop, since
nothing may come between the actions of a transaction; opening a regular file does not block.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from qmpserver.qmp import CommandError
from qmpserver.standin.state.block import images
from qmpserver.standin.state.block.graph import (
    FORMATS,
    MEASURED,
    children_of,
    node_of,
    set_child,
    size_of,
)
from qmpserver.standin.state.block.images import SECTOR, Image
from qmpserver.standin.state.block.info import filename_of
from qmpserver.standin.state.block.nodes import (
    BACKING_FORMAT,
    IN_HEADER,
    add_node,
    drop_unused,
    image_options,
)
from qmpserver.standin.state.block.qcow2 import CLUSTER, MAX_L1, MAX_NAME, REFCOUNT_BITS, Qcow2

if TYPE_CHECKING:
    from qmpserver.standin.state import State

# Drivers that `blockdev-create` creates images with.
_BY_COMMAND = frozenset(
    {
        *("file", "gluster", "luks", "nfs", "parallels", "qcow", "qcow2", "qed", "rbd", "ssh"),
        *("vdi", "vhdx", "vmdk", "vpc"),
    }
)
# Drivers of formats, and of protocols, that other commands create images with.
_CREATING = _BY_COMMAND | {"raw", "host_device", "iscsi", "nbd"}
_WITH_BACKING = ("qcow", "qcow2", "qed", "vmdk")
_PLAIN = ("raw", "file")  # whose files are as long as the disk
_WRAP = 1 << 64  # sizes are unsigned
_CLUSTERS = range(9, 22)  # binary logarithms of the sizes that clusters may have
_MIN_EXTENDED = 1 << 14
_LATE = "compatibility level 1.1 and above (use version=v3 or greater)"
_OR_LATER = _LATE.replace(" and ", " or ")


def check_driver(driver: str) -> None:
    """Check that `blockdev-create` creates images with a driver.

    Raises:
        CommandError: It does not.
    """
    if driver not in _BY_COMMAND:
        raise CommandError("Driver does not support blockdev-create")


def create(state: State, options: dict[str, Any]) -> None:
    """Create an image as the options of `blockdev-create` describe it.

    Raises:
        CommandError: It cannot be created.
    """
    if options["driver"] == "file":
        if state.machine.images:
            preallocation = options.get("preallocation", "off")
            fd = _open(options["filename"])
            try:
                if preallocation == "metadata":
                    raise CommandError(f"Unsupported preallocation mode: {preallocation}")
                _resize(fd, options["size"] % _WRAP)
            finally:
                os.close(fd)
        return
    below = options.get("file")
    if isinstance(below, dict):
        node = add_node(state, below, images.read(images.names(below)), owned=False)
    elif isinstance(below, str):
        node = node_of(state, below)
    else:
        return  # in a place that is no node
    try:
        _create_in(state, node, options)
    finally:
        drop_unused(state, node)


def add_image(
    state: State,
    filename: str,
    driver: str | None,
    source: str,
    *,
    backing: str | None,
    exists: bool,
    name: str | None = None,
) -> str:
    """Create an image as large as a node, and add a node of it, which goes with its last user.

    Args:
        state: The state.
        filename: Its name.
        driver: Its format; None for an existing image of any format.
        source: The node whose size it gets.
        backing: The node whose image its header has as the backing file.
        exists: Whether the image exists already.
        name: The new node's name.

    Returns:
        The name of the node. No other node is below it as its backing file.

    Raises:
        CommandError: The image cannot be created, or its node cannot be added.
    """
    size = -(-size_of(state, source) // SECTOR) * SECTOR
    header = ("", "") if backing is None else _named(state, backing)
    file = image_options(filename)
    if driver is not None and not exists:
        _create_image(state, filename, file, driver, size, *header)
    found = images.read(images.names(file))
    driver = driver or found.get(filename, Image()).format or "raw"
    options = {**file, "driver": driver}
    if driver not in images.FILES:
        options = {"driver": driver, "file": file}
    if name is not None:
        options["node-name"] = name
    node = add_node(state, options, found, owned=False)
    if not exists:
        known: dict[str, int | str] = {MEASURED: size}
        if driver in _WITH_BACKING:
            known |= {IN_HEADER: header[0], BACKING_FORMAT: header[1]}
        state.nodes[node] = {**state.nodes[node], **known}
    return node


def set_backing(state: State, node: str, backing: str | None) -> None:
    """Change the backing file of a node, and its name in the header of the image.

    Raises:
        CommandError: That would make a cycle, or too many layers.
    """
    if backing is None:
        one = {key: value for key, value in state.nodes[node].items() if key != "backing"}
        state.nodes[node] = one
    else:
        set_child(state, node, "backing", backing)
    if IN_HEADER in state.nodes[node]:
        name, driver = ("", "") if backing is None else _named(state, backing)
        state.nodes[node] = {**state.nodes[node], IN_HEADER: name, BACKING_FORMAT: driver}


def _named(state: State, node: str) -> tuple[str, str]:
    """Return the name and the format of a node's image, as headers have them."""
    return filename_of(state, node), state.nodes[node]["driver"]


def _create_image(
    state: State,
    filename: str,
    file: dict[str, Any],
    driver: str,
    size: int,
    backing: str,
    backing_format: str,
) -> None:
    """Create an image in a place that a name tells.

    Raises:
        CommandError: It cannot be created.
    """
    protocol = file["driver"]
    if not state.knows_block_driver(driver):
        raise CommandError(f"Unknown file format '{driver}'")
    if not state.knows_block_driver(protocol):
        raise CommandError(f"Unknown protocol '{protocol}'")
    if driver not in _CREATING:
        raise CommandError(f"Format driver '{driver}' does not support image creation")
    if protocol not in _CREATING:
        raise CommandError(f"Protocol driver '{protocol}' does not support image creation")
    if backing and driver not in _WITH_BACKING:
        raise CommandError(f"Backing file not supported for file format '{driver}'")
    if backing == filename:
        words = "Trying to create an image with the same filename as the backing file"
        raise CommandError(f"Error: {words}")
    qcow2 = Qcow2(size, backing, backing_format)
    if driver == "qcow2":
        if qcow2.l1_size > MAX_L1:
            words = "The image size is too large for file format"
            raise CommandError(f"{words} '{driver}' (try using a larger cluster size)")
        _check_names(qcow2)
    if protocol != "file" or not state.machine.images:
        return
    fd = _open(file["filename"])
    try:
        if driver in _PLAIN:
            _resize(fd, size)
        elif driver == "qcow2":
            _write(fd, qcow2)
    finally:
        os.close(fd)


def _create_in(state: State, node: str, options: dict[str, Any]) -> None:
    """Create an image in a node.

    Raises:
        CommandError: It cannot be created.
    """
    _check_writable(state, node)
    if options["driver"] != "qcow2":
        return
    made = _qcow2(state, options)
    if not state.machine.images:
        return
    while state.nodes[node]["driver"] == "raw" and "file" in children_of(state, node):
        node = children_of(state, node)["file"]
    below = state.nodes[node]
    if below["driver"].startswith("null-"):
        raise CommandError("Image is not in qcow2 format")  # it stays empty
    if below["driver"] != "file":
        return
    fd = _open(below["filename"], clears=False)
    try:
        _write(fd, made)
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    state.nodes[node] = {**below, MEASURED: -(-size // SECTOR) * SECTOR}


def _check_writable(state: State, node: str) -> None:
    """Check that a node may be written, and is not the file of another one.

    Raises:
        CommandError: It may not, or it is.
    """
    if state.nodes[node].get("read-only"):
        raise CommandError("Block node is read-only")
    for over, one in state.nodes.items():
        if one["driver"] in FORMATS and children_of(state, over).get("file") == node:
            raise CommandError(
                f"Permission conflict on node '{node}': permissions 'write, resize' are both "
                f"required by an unnamed block device (uses node '{node}' as 'root' child) and "
                f"unshared by node '{over}' (uses node '{node}' as 'file' child)."
            )


def _qcow2(state: State, options: dict[str, Any]) -> Qcow2:
    """Return the image that the options of `blockdev-create` describe.

    Raises:
        CommandError: There is no such image.
    """
    if isinstance(data_file := options.get("data-file"), str):
        node_of(state, data_file)
    made = Qcow2(
        options["size"] % _WRAP,
        options.get("backing-file", ""),
        options.get("backing-fmt", ""),
        2 if options.get("version") == "v2" else 3,
        options.get("cluster-size", CLUSTER),
        options.get("refcount-bits", REFCOUNT_BITS),
        options.get("lazy-refcounts", False),
        options.get("extended-l2", False),
        options.get("compression-type") == "zstd",
    )
    old, cluster, bits = made.version < 3, made.cluster_size, made.refcount_bits
    preallocates = options.get("preallocation", "off") != "off"
    refusals = (
        (made.size % SECTOR, f"Image size must be a multiple of {SECTOR} bytes"),
        (
            cluster not in {1 << one for one in _CLUSTERS},
            "Cluster size must be a power of two between 512 and 2048k",
        ),
        (old and made.extended, f"Extended L2 entries are only supported with {_LATE}"),
        (
            made.extended and cluster < _MIN_EXTENDED,
            "Extended L2 entries are only supported with cluster sizes of at least "
            f"{_MIN_EXTENDED} bytes",
        ),
        (
            made.backing and preallocates and not made.extended,
            "Backing file and preallocation can only be used at the same time if extended_l2 is on",
        ),
        (
            made.backing_format and not made.backing,
            "Backing format cannot be used without backing file",
        ),
        (old and made.lazy, f"Lazy refcounts only supported with {_LATE}"),
        (
            bits not in {1 << one for one in range(7)},
            "Refcount width must be a power of two and may not exceed 64 bits",
        ),
        (
            old and bits != REFCOUNT_BITS,
            f"Different refcount widths than {REFCOUNT_BITS} bits require {_OR_LATER}",
        ),
        (
            options.get("data-file-raw") and "data-file" not in options,
            "data-file-raw requires data-file",
        ),
        (old and made.zstd, f"Non-zlib compression type is only supported with {_LATE}"),
    )
    for refused, words in refusals:
        if refused:
            raise CommandError(words)
    if made.size >= _WRAP // 2:
        raise CommandError("Could not resize image: Image size cannot be negative")
    if made.l1_size > MAX_L1:
        why = os.strerror(errno.EFBIG)
        raise CommandError(f"Could not resize image: Failed to grow the L1 table: {why}")
    _check_names(made)
    return made


def _open(path: str, *, clears: bool = True) -> int:
    """Return a descriptor of a regular file, which is created if it does not exist.

    Raises:
        CommandError: It cannot be created, or it is another kind of file.
    """
    try:
        # To open another file, such as a pipe or a tape, can have an effect.
        if os.path.exists(path) and stat.S_IFMT(os.stat(path).st_mode) not in _OPENED:
            raise CommandError(f"Could not resize file: {os.strerror(errno.EINVAL)}")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(path, flags | os.O_TRUNC if clears else flags, 0o644)
    except ValueError:  # a zero byte in the name
        raise CommandError(f"Could not create '{path}': {os.strerror(errno.ENOENT)}") from None
    except OSError as error:
        raise CommandError(f"Could not create '{path}': {error.strerror}") from None
    return fd


_OPENED = (stat.S_IFREG, stat.S_IFDIR)  # a directory is refused in the system's words


def _resize(fd: int, size: int) -> None:
    """Give a file a size.

    Raises:
        CommandError: It cannot have it.
    """
    try:
        os.ftruncate(fd, size)
    except (OSError, OverflowError) as error:
        why = os.strerror(getattr(error, "errno", errno.EINVAL))
        raise CommandError(f"Could not resize file: {why}") from None


def _check_names(image: Qcow2) -> None:
    """Check that the names in a header are short enough.

    Raises:
        CommandError: They are not.
    """
    number = 0
    if len(image.backing.encode()) > MAX_NAME:
        number = errno.EINVAL
    elif image.header_size > image.cluster_size:
        number = errno.ENOSPC
    if number:
        named = f"'{image.backing}' with format '{image.backing_format or '(null)'}'"
        raise CommandError(f"Could not assign backing file {named}: {os.strerror(number)}")


def _write(fd: int, image: Qcow2) -> None:
    """Write an image into a file.

    Raises:
        CommandError: That fails.
    """
    try:
        image.write(fd)
    except OSError as error:
        raise CommandError(f"Could not write qcow2 header: {error.strerror}") from None
