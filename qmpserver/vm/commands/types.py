"""The types, commands and events that schema/qapi-schema.json declares. Generated: do not edit.

Regenerate with `python -m qmpserver.qapi types schema/qapi-schema.json -o FILE`.
"""

# ruff: noqa: A002, D102 -- the schema decides names and documents each handler

from collections.abc import Awaitable
from typing import Literal, NotRequired, Protocol, TypeAlias, TypedDict, TypeVar

_T = TypeVar("_T")

# A handler may be a coroutine function.
Answer: TypeAlias = _T | Awaitable[_T]

StrOrNull: TypeAlias = str | None

# The address of a TCP socket.
InetSocketAddress = TypedDict(
    "InetSocketAddress",
    {
        "host": str,
        "port": str,
        "numeric": NotRequired[bool],
        "to": NotRequired[int],
        "ipv4": NotRequired[bool],
        "ipv6": NotRequired[bool],
        "keep-alive": NotRequired[bool],
        "keep-alive-count": NotRequired[int],
        "keep-alive-idle": NotRequired[int],
        "keep-alive-interval": NotRequired[int],
        "mptcp": NotRequired[bool],
    },
)


class UnixSocketAddress(TypedDict):
    """The address of a Unix socket."""

    path: str
    abstract: NotRequired[bool]
    tight: NotRequired[bool]


class VsockSocketAddress(TypedDict):
    """The address of a socket between a host and its guests."""

    cid: str
    port: str


class FdSocketAddress(TypedDict):
    """A socket that the server has already."""

    str: str


SocketAddressType = Literal["inet", "unix", "vsock", "fd"]

# One kind of `SocketAddress`.
SocketAddressInet = TypedDict(
    "SocketAddressInet",
    {
        "type": Literal["inet"],
        "host": str,
        "port": str,
        "numeric": NotRequired[bool],
        "to": NotRequired[int],
        "ipv4": NotRequired[bool],
        "ipv6": NotRequired[bool],
        "keep-alive": NotRequired[bool],
        "keep-alive-count": NotRequired[int],
        "keep-alive-idle": NotRequired[int],
        "keep-alive-interval": NotRequired[int],
        "mptcp": NotRequired[bool],
    },
)


class SocketAddressUnix(TypedDict):
    """One kind of `SocketAddress`."""

    type: Literal["unix"]
    path: str
    abstract: NotRequired[bool]
    tight: NotRequired[bool]


class SocketAddressVsock(TypedDict):
    """One kind of `SocketAddress`."""

    type: Literal["vsock"]
    cid: str
    port: str


class SocketAddressFd(TypedDict):
    """One kind of `SocketAddress`."""

    type: Literal["fd"]
    str: str


SocketAddress: TypeAlias = (
    SocketAddressInet | SocketAddressUnix | SocketAddressVsock | SocketAddressFd
)

RunState = Literal[
    "debug",
    "inmigrate",
    "internal-error",
    "io-error",
    "paused",
    "postmigrate",
    "prelaunch",
    "finish-migrate",
    "restore-vm",
    "running",
    "save-vm",
    "shutdown",
    "suspended",
    "watchdog",
    "guest-panicked",
    "colo",
]

ShutdownCause = Literal[
    "none",
    "host-error",
    "host-qmp-quit",
    "host-qmp-system-reset",
    "host-signal",
    "host-ui",
    "guest-shutdown",
    "guest-reset",
    "guest-panic",
    "subsystem-reset",
    "snapshot-load",
]


class StatusInfo(TypedDict):
    """The run state."""

    running: bool
    status: RunState


WatchdogAction = Literal["reset", "shutdown", "poweroff", "pause", "debug", "none", "inject-nmi"]

RebootAction = Literal["reset", "shutdown"]

ShutdownAction = Literal["poweroff", "pause"]

PanicAction = Literal["pause", "shutdown", "exit-failure", "none"]

# The dirty rate of one virtual CPU.
DirtyRateVcpu = TypedDict(
    "DirtyRateVcpu",
    {
        "id": int,
        "dirty-rate": int,
    },
)

DirtyRateStatus = Literal["unstarted", "measuring", "measured"]

DirtyRateMeasureMode = Literal["page-sampling", "dirty-ring", "dirty-bitmap"]

TimeUnit = Literal["second", "millisecond"]

# The latest measurement of the dirty rate.
DirtyRateInfo = TypedDict(
    "DirtyRateInfo",
    {
        "dirty-rate": NotRequired[int],
        "status": DirtyRateStatus,
        "start-time": int,
        "calc-time": int,
        "calc-time-unit": TimeUnit,
        "sample-pages": int,
        "mode": DirtyRateMeasureMode,
        "vcpu-dirty-rate": NotRequired[list[DirtyRateVcpu]],
    },
)

# The dirty limit of one virtual CPU.
DirtyLimitInfo = TypedDict(
    "DirtyLimitInfo",
    {
        "cpu-index": int,
        "limit-rate": int,
        "current-rate": int,
    },
)

MigrationStatus = Literal[
    "none",
    "setup",
    "cancelling",
    "cancelled",
    "active",
    "postcopy-device",
    "postcopy-active",
    "postcopy-paused",
    "postcopy-recover-setup",
    "postcopy-recover",
    "completed",
    "failing",
    "failed",
    "colo",
    "pre-switchover",
    "device",
    "wait-unplug",
]

# The progress of a migration's memory.
MigrationStats = TypedDict(
    "MigrationStats",
    {
        "transferred": int,
        "remaining": int,
        "total": int,
        "duplicate": int,
        "normal": int,
        "normal-bytes": int,
        "dirty-pages-rate": int,
        "mbps": float,
        "dirty-sync-count": int,
        "postcopy-requests": int,
        "page-size": int,
        "multifd-bytes": int,
        "pages-per-second": int,
        "precopy-bytes": int,
        "downtime-bytes": int,
        "postcopy-bytes": int,
        "dirty-sync-missed-zero-copy": int,
    },
)


class VfioStats(TypedDict):
    """The progress of VFIO devices, which this server does not have."""

    transferred: int


# The success of capability @xbzrle, which has no effect here.
XBZRLECacheStats = TypedDict(
    "XBZRLECacheStats",
    {
        "cache-size": int,
        "bytes": int,
        "pages": int,
        "cache-miss": int,
        "cache-miss-rate": float,
        "encoding-rate": float,
        "overflow": int,
    },
)

# A migration, its progress and its result.
MigrationInfo = TypedDict(
    "MigrationInfo",
    {
        "status": NotRequired[MigrationStatus],
        "ram": NotRequired[MigrationStats],
        "remaining": NotRequired[int],
        "vfio": NotRequired[VfioStats],
        "xbzrle-cache": NotRequired[XBZRLECacheStats],
        "total-time": NotRequired[int],
        "expected-downtime": NotRequired[int],
        "downtime": NotRequired[int],
        "setup-time": NotRequired[int],
        "cpu-throttle-percentage": NotRequired[int],
        "error-desc": NotRequired[str],
        "blocked-reasons": NotRequired[list[str]],
        "postcopy-blocktime": NotRequired[int],
        "postcopy-vcpu-blocktime": NotRequired[list[int]],
        "postcopy-latency": NotRequired[int],
        "postcopy-latency-dist": NotRequired[list[int]],
        "postcopy-vcpu-latency": NotRequired[list[int]],
        "postcopy-non-vcpu-latency": NotRequired[int],
        "socket-address": NotRequired[list[SocketAddress]],
        "dirty-limit-throttle-time-per-round": NotRequired[int],
        "dirty-limit-ring-full-time": NotRequired[int],
    },
)

MigrationCapability = Literal[
    "xbzrle",
    "rdma-pin-all",
    "auto-converge",
    "events",
    "postcopy-ram",
    "x-colo",
    "release-ram",
    "return-path",
    "pause-before-switchover",
    "multifd",
    "dirty-bitmaps",
    "postcopy-blocktime",
    "late-block-activate",
    "x-ignore-shared",
    "validate-uuid",
    "background-snapshot",
    "zero-copy-send",
    "postcopy-preempt",
    "switchover-ack",
    "dirty-limit",
    "mapped-ram",
]


class MigrationCapabilityStatus(TypedDict):
    """A capability, on or off."""

    capability: MigrationCapability
    state: bool


MultiFDCompression = Literal["none", "zlib", "zstd"]

MigMode = Literal["normal", "cpr-reboot", "cpr-transfer", "cpr-exec"]

ZeroPageDetection = Literal["none", "legacy", "multifd"]


class BitmapMigrationBitmapAliasTransform(TypedDict):
    """A change of a bitmap."""

    persistent: NotRequired[bool]


class BitmapMigrationBitmapAlias(TypedDict):
    """Another name of a bitmap."""

    name: str
    alias: str
    transform: NotRequired[BitmapMigrationBitmapAliasTransform]


# Another name of a block device.
BitmapMigrationNodeAlias = TypedDict(
    "BitmapMigrationNodeAlias",
    {
        "node-name": str,
        "alias": str,
        "bitmaps": list[BitmapMigrationBitmapAlias],
    },
)

# The parameters of migrations.
MigrationParameters = TypedDict(
    "MigrationParameters",
    {
        "announce-initial": NotRequired[int],
        "announce-max": NotRequired[int],
        "announce-rounds": NotRequired[int],
        "announce-step": NotRequired[int],
        "throttle-trigger-threshold": NotRequired[int],
        "cpu-throttle-initial": NotRequired[int],
        "cpu-throttle-increment": NotRequired[int],
        "cpu-throttle-tailslow": NotRequired[bool],
        "tls-creds": NotRequired[StrOrNull],
        "tls-hostname": NotRequired[StrOrNull],
        "tls-authz": NotRequired[StrOrNull],
        "max-bandwidth": NotRequired[int],
        "avail-switchover-bandwidth": NotRequired[int],
        "downtime-limit": NotRequired[int],
        "x-checkpoint-delay": NotRequired[int],
        "multifd-channels": NotRequired[int],
        "xbzrle-cache-size": NotRequired[int],
        "max-postcopy-bandwidth": NotRequired[int],
        "max-cpu-throttle": NotRequired[int],
        "multifd-compression": NotRequired[MultiFDCompression],
        "multifd-zlib-level": NotRequired[int],
        "multifd-qatzip-level": NotRequired[int],
        "multifd-zstd-level": NotRequired[int],
        "block-bitmap-mapping": NotRequired[list[BitmapMigrationNodeAlias]],
        "x-vcpu-dirty-limit-period": NotRequired[int],
        "vcpu-dirty-limit": NotRequired[int],
        "mode": NotRequired[MigMode],
        "zero-page-detection": NotRequired[ZeroPageDetection],
        "direct-io": NotRequired[bool],
        "x-rdma-chunk-size": NotRequired[int],
        "cpr-exec-command": NotRequired[list[str]],
        "__org.qmpserver_total-time": NotRequired[int],
    },
)

MigrationAddressType = Literal["socket", "exec", "rdma", "file"]


class FileMigrationArgs(TypedDict):
    """A file that holds a migration's stream."""

    filename: str
    offset: int


class MigrationExecCommand(TypedDict):
    """A command that takes or gives a migration's stream."""

    args: list[str]


# One kind of `MigrationAddress`.
MigrationAddressSocketInet = TypedDict(
    "MigrationAddressSocketInet",
    {
        "transport": Literal["socket"],
        "type": Literal["inet"],
        "host": str,
        "port": str,
        "numeric": NotRequired[bool],
        "to": NotRequired[int],
        "ipv4": NotRequired[bool],
        "ipv6": NotRequired[bool],
        "keep-alive": NotRequired[bool],
        "keep-alive-count": NotRequired[int],
        "keep-alive-idle": NotRequired[int],
        "keep-alive-interval": NotRequired[int],
        "mptcp": NotRequired[bool],
    },
)


class MigrationAddressSocketUnix(TypedDict):
    """One kind of `MigrationAddress`."""

    transport: Literal["socket"]
    type: Literal["unix"]
    path: str
    abstract: NotRequired[bool]
    tight: NotRequired[bool]


class MigrationAddressSocketVsock(TypedDict):
    """One kind of `MigrationAddress`."""

    transport: Literal["socket"]
    type: Literal["vsock"]
    cid: str
    port: str


class MigrationAddressSocketFd(TypedDict):
    """One kind of `MigrationAddress`."""

    transport: Literal["socket"]
    type: Literal["fd"]
    str: str


class MigrationAddressExec(TypedDict):
    """One kind of `MigrationAddress`."""

    transport: Literal["exec"]
    args: list[str]


# One kind of `MigrationAddress`.
MigrationAddressRdma = TypedDict(
    "MigrationAddressRdma",
    {
        "transport": Literal["rdma"],
        "host": str,
        "port": str,
        "numeric": NotRequired[bool],
        "to": NotRequired[int],
        "ipv4": NotRequired[bool],
        "ipv6": NotRequired[bool],
        "keep-alive": NotRequired[bool],
        "keep-alive-count": NotRequired[int],
        "keep-alive-idle": NotRequired[int],
        "keep-alive-interval": NotRequired[int],
        "mptcp": NotRequired[bool],
    },
)


class MigrationAddressFile(TypedDict):
    """One kind of `MigrationAddress`."""

    transport: Literal["file"]
    filename: str
    offset: int


MigrationAddress: TypeAlias = (
    MigrationAddressSocketInet
    | MigrationAddressSocketUnix
    | MigrationAddressSocketVsock
    | MigrationAddressSocketFd
    | MigrationAddressExec
    | MigrationAddressRdma
    | MigrationAddressFile
)

MigrationChannelType = Literal["main", "cpr"]

# A channel of a migration.
MigrationChannel = TypedDict(
    "MigrationChannel",
    {
        "channel-type": MigrationChannelType,
        "addr": MigrationAddress,
    },
)

# The expected course of a migration that has not started.
MigrationForecast = TypedDict(
    "MigrationForecast",
    {
        "possible": bool,
        "shortest-total-time": NotRequired[int],
        "unlimited-total-time": NotRequired[int],
        "expected-total-time": NotRequired[int],
        "expected-downtime": int,
        "kept": list[int],
    },
)

QMPCapability = Literal["oob"]


class VersionTriple(TypedDict):
    """A version in three numbers."""

    major: int
    minor: int
    micro: int


class VersionInfo(TypedDict):
    """The version of the server."""

    qemu: VersionTriple
    package: str


class CommandInfo(TypedDict):
    """A command that exists."""

    name: str


SchemaMetaType = Literal["builtin", "enum", "array", "object", "alternate", "command", "event"]

JSONType = Literal["string", "number", "int", "boolean", "null", "object", "array", "value"]

# Additional members for a built-in type.
SchemaInfoBuiltin = TypedDict(
    "SchemaInfoBuiltin",
    {
        "json-type": JSONType,
    },
)


class SchemaInfoEnumMember(TypedDict):
    """A value of an enumeration."""

    name: str
    features: NotRequired[list[str]]


class SchemaInfoEnum(TypedDict):
    """Additional members for an enumeration."""

    members: list[SchemaInfoEnumMember]
    values: list[str]


# Additional members for an array.
SchemaInfoArray = TypedDict(
    "SchemaInfoArray",
    {
        "element-type": str,
    },
)


class SchemaInfoObjectMember(TypedDict):
    """A member of an object."""

    name: str
    type: str
    default: NotRequired[object]
    features: NotRequired[list[str]]


class SchemaInfoObjectVariant(TypedDict):
    """The additional members of a union for one value of its tag."""

    case: str
    type: str


class SchemaInfoObject(TypedDict):
    """Additional members for a struct or union."""

    members: list[SchemaInfoObjectMember]
    tag: NotRequired[str]
    variants: NotRequired[list[SchemaInfoObjectVariant]]


class SchemaInfoAlternateMember(TypedDict):
    """One of the types of an alternate."""

    type: str


class SchemaInfoAlternate(TypedDict):
    """Additional members for a choice of types."""

    members: list[SchemaInfoAlternateMember]


# Additional members for a command.
SchemaInfoCommand = TypedDict(
    "SchemaInfoCommand",
    {
        "arg-type": str,
        "ret-type": str,
        "allow-oob": NotRequired[bool],
    },
)

# Additional members for an event.
SchemaInfoEvent = TypedDict(
    "SchemaInfoEvent",
    {
        "arg-type": str,
    },
)

# One kind of `SchemaInfo`.
SchemaInfoBuiltin_ = TypedDict(
    "SchemaInfoBuiltin_",
    {
        "name": str,
        "meta-type": Literal["builtin"],
        "features": NotRequired[list[str]],
        "json-type": JSONType,
    },
)

# One kind of `SchemaInfo`.
SchemaInfoEnum_ = TypedDict(
    "SchemaInfoEnum_",
    {
        "name": str,
        "meta-type": Literal["enum"],
        "features": NotRequired[list[str]],
        "members": list[SchemaInfoEnumMember],
        "values": list[str],
    },
)

# One kind of `SchemaInfo`.
SchemaInfoArray_ = TypedDict(
    "SchemaInfoArray_",
    {
        "name": str,
        "meta-type": Literal["array"],
        "features": NotRequired[list[str]],
        "element-type": str,
    },
)

# One kind of `SchemaInfo`.
SchemaInfoObject_ = TypedDict(
    "SchemaInfoObject_",
    {
        "name": str,
        "meta-type": Literal["object"],
        "features": NotRequired[list[str]],
        "members": list[SchemaInfoObjectMember],
        "tag": NotRequired[str],
        "variants": NotRequired[list[SchemaInfoObjectVariant]],
    },
)

# One kind of `SchemaInfo`.
SchemaInfoAlternate_ = TypedDict(
    "SchemaInfoAlternate_",
    {
        "name": str,
        "meta-type": Literal["alternate"],
        "features": NotRequired[list[str]],
        "members": list[SchemaInfoAlternateMember],
    },
)

# One kind of `SchemaInfo`.
SchemaInfoCommand_ = TypedDict(
    "SchemaInfoCommand_",
    {
        "name": str,
        "meta-type": Literal["command"],
        "features": NotRequired[list[str]],
        "arg-type": str,
        "ret-type": str,
        "allow-oob": NotRequired[bool],
    },
)

# One kind of `SchemaInfo`.
SchemaInfoEvent_ = TypedDict(
    "SchemaInfoEvent_",
    {
        "name": str,
        "meta-type": Literal["event"],
        "features": NotRequired[list[str]],
        "arg-type": str,
    },
)

SchemaInfo: TypeAlias = (
    SchemaInfoBuiltin_
    | SchemaInfoEnum_
    | SchemaInfoArray_
    | SchemaInfoObject_
    | SchemaInfoAlternate_
    | SchemaInfoCommand_
    | SchemaInfoEvent_
)

QCryptoCipherAlgo = Literal[
    "aes-128",
    "aes-192",
    "aes-256",
    "des",
    "3des",
    "cast5-128",
    "serpent-128",
    "serpent-192",
    "serpent-256",
    "twofish-128",
    "twofish-192",
    "twofish-256",
    "sm4",
]

QCryptoCipherMode = Literal["ecb", "cbc", "xts", "ctr"]

QCryptoIVGenAlgo = Literal["plain", "plain64", "essiv"]

QCryptoHashAlgo = Literal["md5", "sha1", "sha224", "sha256", "sha384", "sha512", "ripemd160", "sm3"]

# A place for a key.
QCryptoBlockInfoLUKSSlot = TypedDict(
    "QCryptoBlockInfoLUKSSlot",
    {
        "active": bool,
        "iters": NotRequired[int],
        "stripes": NotRequired[int],
        "key-offset": int,
    },
)

# The encryption LUKS.
QCryptoBlockInfoLUKS = TypedDict(
    "QCryptoBlockInfoLUKS",
    {
        "cipher-alg": QCryptoCipherAlgo,
        "cipher-mode": QCryptoCipherMode,
        "ivgen-alg": QCryptoIVGenAlgo,
        "ivgen-hash-alg": NotRequired[QCryptoHashAlgo],
        "hash-alg": QCryptoHashAlgo,
        "detached-header": bool,
        "payload-offset": int,
        "master-key-iters": int,
        "uuid": str,
        "slots": list[QCryptoBlockInfoLUKSSlot],
    },
)

JobType = Literal[
    "commit",
    "stream",
    "mirror",
    "backup",
    "create",
    "amend",
    "snapshot-load",
    "snapshot-save",
    "snapshot-delete",
]

JobStatus = Literal[
    "undefined",
    "created",
    "running",
    "paused",
    "ready",
    "standby",
    "waiting",
    "pending",
    "aborting",
    "concluded",
    "null",
]

# A job.
JobInfo = TypedDict(
    "JobInfo",
    {
        "id": str,
        "type": JobType,
        "status": JobStatus,
        "current-progress": int,
        "total-progress": int,
        "error": NotRequired[str],
    },
)

# A snapshot inside an image.
SnapshotInfo = TypedDict(
    "SnapshotInfo",
    {
        "id": str,
        "name": str,
        "vm-state-size": int,
        "date-sec": int,
        "date-nsec": int,
        "vm-clock-sec": int,
        "vm-clock-nsec": int,
        "icount": NotRequired[int],
    },
)

BlockdevQcow2EncryptionFormat = Literal["aes", "luks"]


class ImageInfoSpecificQCow2EncryptionBase(TypedDict):
    """What all encryptions of a qcow2 image have."""

    format: BlockdevQcow2EncryptionFormat


ImageInfoSpecificQCow2EncryptionTag = Literal["aes"]

# One kind of `ImageInfoSpecificQCow2Encryption`.
ImageInfoSpecificQCow2EncryptionLuks = TypedDict(
    "ImageInfoSpecificQCow2EncryptionLuks",
    {
        "format": Literal["luks"],
        "cipher-alg": QCryptoCipherAlgo,
        "cipher-mode": QCryptoCipherMode,
        "ivgen-alg": QCryptoIVGenAlgo,
        "ivgen-hash-alg": NotRequired[QCryptoHashAlgo],
        "hash-alg": QCryptoHashAlgo,
        "detached-header": bool,
        "payload-offset": int,
        "master-key-iters": int,
        "uuid": str,
        "slots": list[QCryptoBlockInfoLUKSSlot],
    },
)


class ImageInfoSpecificQCow2EncryptionPlain(TypedDict):
    """One kind of `ImageInfoSpecificQCow2Encryption`."""

    format: ImageInfoSpecificQCow2EncryptionTag


ImageInfoSpecificQCow2Encryption: TypeAlias = (
    ImageInfoSpecificQCow2EncryptionLuks | ImageInfoSpecificQCow2EncryptionPlain
)

Qcow2BitmapInfoFlags = Literal["in-use", "auto"]


class Qcow2BitmapInfo(TypedDict):
    """A bitmap that a qcow2 image stores."""

    name: str
    granularity: int
    flags: list[Qcow2BitmapInfoFlags]


Qcow2CompressionType = Literal["zlib", "zstd"]

# What only a qcow2 image has.
ImageInfoSpecificQCow2 = TypedDict(
    "ImageInfoSpecificQCow2",
    {
        "compat": str,
        "data-file": NotRequired[str],
        "data-file-raw": NotRequired[bool],
        "extended-l2": NotRequired[bool],
        "lazy-refcounts": NotRequired[bool],
        "corrupt": NotRequired[bool],
        "refcount-bits": int,
        "encrypt": NotRequired[ImageInfoSpecificQCow2Encryption],
        "bitmaps": NotRequired[list[Qcow2BitmapInfo]],
        "compression-type": Qcow2CompressionType,
    },
)

# A part of a VMDK image.
VmdkExtentInfo = TypedDict(
    "VmdkExtentInfo",
    {
        "filename": str,
        "format": str,
        "virtual-size": int,
        "cluster-size": NotRequired[int],
        "compressed": NotRequired[bool],
    },
)

# What only a VMDK image has.
ImageInfoSpecificVmdk = TypedDict(
    "ImageInfoSpecificVmdk",
    {
        "create-type": str,
        "cid": int,
        "parent-cid": int,
        "extents": list[VmdkExtentInfo],
    },
)

RbdImageEncryptionFormat = Literal["luks", "luks2", "luks-any"]

# What only an image in Ceph has.
ImageInfoSpecificRbd = TypedDict(
    "ImageInfoSpecificRbd",
    {
        "encryption-format": NotRequired[RbdImageEncryptionFormat],
    },
)

# What only a file has.
ImageInfoSpecificFile = TypedDict(
    "ImageInfoSpecificFile",
    {
        "extent-size-hint": NotRequired[int],
    },
)

ImageInfoSpecificKind = Literal["qcow2", "vmdk", "luks", "rbd", "file"]


class ImageInfoSpecificQCow2Wrapper(TypedDict):
    """The branch of qcow2."""

    data: ImageInfoSpecificQCow2


class ImageInfoSpecificVmdkWrapper(TypedDict):
    """The branch of VMDK."""

    data: ImageInfoSpecificVmdk


class ImageInfoSpecificLUKSWrapper(TypedDict):
    """The branch of LUKS."""

    data: QCryptoBlockInfoLUKS


class ImageInfoSpecificRbdWrapper(TypedDict):
    """The branch of Ceph."""

    data: ImageInfoSpecificRbd


class ImageInfoSpecificFileWrapper(TypedDict):
    """The branch of files."""

    data: ImageInfoSpecificFile


class ImageInfoSpecificQcow2(TypedDict):
    """One kind of `ImageInfoSpecific`."""

    type: Literal["qcow2"]
    data: ImageInfoSpecificQCow2


class ImageInfoSpecificVmdk_(TypedDict):
    """One kind of `ImageInfoSpecific`."""

    type: Literal["vmdk"]
    data: ImageInfoSpecificVmdk


class ImageInfoSpecificLuks(TypedDict):
    """One kind of `ImageInfoSpecific`."""

    type: Literal["luks"]
    data: QCryptoBlockInfoLUKS


class ImageInfoSpecificRbd_(TypedDict):
    """One kind of `ImageInfoSpecific`."""

    type: Literal["rbd"]
    data: ImageInfoSpecificRbd


class ImageInfoSpecificFile_(TypedDict):
    """One kind of `ImageInfoSpecific`."""

    type: Literal["file"]
    data: ImageInfoSpecificFile


ImageInfoSpecific: TypeAlias = (
    ImageInfoSpecificQcow2
    | ImageInfoSpecificVmdk_
    | ImageInfoSpecificLuks
    | ImageInfoSpecificRbd_
    | ImageInfoSpecificFile_
)

# The limits of requests to a node, in bytes.
BlockLimitsInfo = TypedDict(
    "BlockLimitsInfo",
    {
        "request-alignment": int,
        "max-discard": NotRequired[int],
        "discard-alignment": NotRequired[int],
        "max-write-zeroes": NotRequired[int],
        "write-zeroes-alignment": NotRequired[int],
        "opt-transfer": NotRequired[int],
        "max-transfer": NotRequired[int],
        "max-hw-transfer": NotRequired[int],
        "max-iov": int,
        "max-hw-iov": NotRequired[int],
        "min-mem-alignment": int,
        "opt-mem-alignment": int,
    },
)

# An image.
ImageInfo = TypedDict(
    "ImageInfo",
    {
        "filename": str,
        "format": str,
        "dirty-flag": NotRequired[bool],
        "actual-size": NotRequired[int],
        "virtual-size": int,
        "cluster-size": NotRequired[int],
        "encrypted": NotRequired[bool],
        "compressed": NotRequired[bool],
        "backing-filename": NotRequired[str],
        "full-backing-filename": NotRequired[str],
        "backing-filename-format": NotRequired[str],
        "snapshots": NotRequired[list[SnapshotInfo]],
        "limits": NotRequired[BlockLimitsInfo],
        "format-specific": NotRequired[ImageInfoSpecific],
        "backing-image": NotRequired["ImageInfo"],
    },
)

# How a node uses caches.
BlockdevCacheInfo = TypedDict(
    "BlockdevCacheInfo",
    {
        "writeback": bool,
        "direct": bool,
        "no-flush": bool,
    },
)

# The place of a node below another.
BlockdevChild = TypedDict(
    "BlockdevChild",
    {
        "child": str,
        "node-name": str,
    },
)

BlockdevDetectZeroesOptions = Literal["off", "on", "unmap"]


class BlockDirtyInfo(TypedDict):
    """A bitmap of changed blocks."""

    name: NotRequired[str]
    count: int
    granularity: int
    recording: bool
    busy: bool
    persistent: bool
    inconsistent: NotRequired[bool]


# A node: an image and how it is used.
BlockDeviceInfo = TypedDict(
    "BlockDeviceInfo",
    {
        "file": str,
        "node-name": str,
        "ro": bool,
        "drv": str,
        "backing_file": NotRequired[str],
        "backing_file_depth": int,
        "children": list[BlockdevChild],
        "active": bool,
        "encrypted": bool,
        "detect_zeroes": BlockdevDetectZeroesOptions,
        "bps": int,
        "bps_rd": int,
        "bps_wr": int,
        "iops": int,
        "iops_rd": int,
        "iops_wr": int,
        "image": ImageInfo,
        "bps_max": NotRequired[int],
        "bps_rd_max": NotRequired[int],
        "bps_wr_max": NotRequired[int],
        "iops_max": NotRequired[int],
        "iops_rd_max": NotRequired[int],
        "iops_wr_max": NotRequired[int],
        "bps_max_length": NotRequired[int],
        "bps_rd_max_length": NotRequired[int],
        "bps_wr_max_length": NotRequired[int],
        "iops_max_length": NotRequired[int],
        "iops_rd_max_length": NotRequired[int],
        "iops_wr_max_length": NotRequired[int],
        "iops_size": NotRequired[int],
        "group": NotRequired[str],
        "cache": BlockdevCacheInfo,
        "write_threshold": int,
        "dirty-bitmaps": NotRequired[list[BlockDirtyInfo]],
    },
)

BlockDeviceIoStatus = Literal["ok", "failed", "nospace"]

# A device with a medium.
BlockInfo = TypedDict(
    "BlockInfo",
    {
        "device": str,
        "qdev": NotRequired[str],
        "type": str,
        "removable": bool,
        "locked": bool,
        "inserted": NotRequired[BlockDeviceInfo],
        "tray_open": NotRequired[bool],
        "io-status": NotRequired[BlockDeviceIoStatus],
    },
)

CpuS390State = Literal["uninitialized", "stopped", "check-stop", "operating", "load"]

CpuS390Entitlement = Literal["auto", "low", "medium", "high"]

SysEmuTarget = Literal[
    "aarch64",
    "alpha",
    "arm",
    "avr",
    "hexagon",
    "hppa",
    "i386",
    "loongarch64",
    "m68k",
    "microblaze",
    "mips",
    "mips64",
    "mips64el",
    "mipsel",
    "or1k",
    "ppc",
    "ppc64",
    "riscv32",
    "riscv64",
    "rx",
    "s390x",
    "sh4",
    "sh4eb",
    "sparc",
    "sparc64",
    "tricore",
    "x86_64",
    "xtensa",
    "xtensaeb",
]

# Additional members for a virtual CPU of type s390.
CpuInfoS390 = TypedDict(
    "CpuInfoS390",
    {
        "cpu-state": CpuS390State,
        "dedicated": NotRequired[bool],
        "entitlement": NotRequired[CpuS390Entitlement],
    },
)

# The position of a virtual CPU in the machine.
CpuInstanceProperties = TypedDict(
    "CpuInstanceProperties",
    {
        "node-id": NotRequired[int],
        "drawer-id": NotRequired[int],
        "book-id": NotRequired[int],
        "socket-id": NotRequired[int],
        "die-id": NotRequired[int],
        "cluster-id": NotRequired[int],
        "module-id": NotRequired[int],
        "core-id": NotRequired[int],
        "thread-id": NotRequired[int],
    },
)

CpuInfoFastTag = Literal[
    "aarch64",
    "alpha",
    "arm",
    "avr",
    "hexagon",
    "hppa",
    "i386",
    "loongarch64",
    "m68k",
    "microblaze",
    "mips",
    "mips64",
    "mips64el",
    "mipsel",
    "or1k",
    "ppc",
    "ppc64",
    "riscv32",
    "riscv64",
    "rx",
    "sh4",
    "sh4eb",
    "sparc",
    "sparc64",
    "tricore",
    "x86_64",
    "xtensa",
    "xtensaeb",
]

# One kind of `CpuInfoFast`.
CpuInfoFastS390x = TypedDict(
    "CpuInfoFastS390x",
    {
        "cpu-index": int,
        "qom-type": str,
        "qom-path": str,
        "thread-id": int,
        "props": NotRequired[CpuInstanceProperties],
        "target": Literal["s390x"],
        "cpu-state": CpuS390State,
        "dedicated": NotRequired[bool],
        "entitlement": NotRequired[CpuS390Entitlement],
    },
)

# One kind of `CpuInfoFast`.
CpuInfoFastPlain = TypedDict(
    "CpuInfoFastPlain",
    {
        "cpu-index": int,
        "qom-type": str,
        "qom-path": str,
        "thread-id": int,
        "props": NotRequired[CpuInstanceProperties],
        "target": CpuInfoFastTag,
    },
)

CpuInfoFast: TypeAlias = CpuInfoFastS390x | CpuInfoFastPlain

# A default that a machine type changes in a driver.
CompatProperty = TypedDict(
    "CompatProperty",
    {
        "qom-type": str,
        "property": str,
        "value": str,
    },
)

# A type of machine.
MachineInfo = TypedDict(
    "MachineInfo",
    {
        "name": str,
        "alias": NotRequired[str],
        "is-default": NotRequired[bool],
        "cpu-max": int,
        "hotpluggable-cpus": bool,
        "numa-mem-supported": bool,
        "deprecated": bool,
        "default-cpu-type": NotRequired[str],
        "default-ram-id": NotRequired[str],
        "acpi": bool,
        "compat-props": NotRequired[list[CompatProperty]],
    },
)


class TargetInfo(TypedDict):
    """The emulated architecture."""

    arch: SysEmuTarget


class UuidInfo(TypedDict):
    """The virtual machine's unique identifier."""

    UUID: str


# The size of the guest's memory, in bytes.
MemoryInfo = TypedDict(
    "MemoryInfo",
    {
        "base-memory": int,
        "plugged-memory": NotRequired[int],
    },
)

# A place for a virtual CPU.
HotpluggableCPU = TypedDict(
    "HotpluggableCPU",
    {
        "type": str,
        "vcpus-count": int,
        "props": CpuInstanceProperties,
        "qom-path": NotRequired[str],
    },
)

# A model of virtual CPUs, as option ``-cpu`` takes it.
CpuDefinitionInfo = TypedDict(
    "CpuDefinitionInfo",
    {
        "name": str,
        "migration-safe": NotRequired[bool],
        "static": bool,
        "unavailable-features": NotRequired[list[str]],
        "typename": str,
        "alias-of": NotRequired[str],
        "deprecated": bool,
    },
)


class KvmInfo(TypedDict):
    """Whether KVM is used."""

    enabled: bool
    present: bool


Accelerator = Literal["hvf", "kvm", "mshv", "nvmm", "qtest", "tcg", "whpx", "xen"]


class AcceleratorInfo(TypedDict):
    """The accelerators of this server."""

    enabled: Accelerator
    present: list[Accelerator]


class NameInfo(TypedDict):
    """The virtual machine's name."""

    name: NotRequired[str]


CommandLineParameterType = Literal["string", "boolean", "number", "size"]


class CommandLineParameterInfo(TypedDict):
    """A parameter of a command line option."""

    name: str
    type: CommandLineParameterType
    help: NotRequired[str]
    default: NotRequired[str]


class CommandLineOptionInfo(TypedDict):
    """A command line option that has parameters."""

    option: str
    parameters: list[CommandLineParameterInfo]


# A thread of the server that does input and output for devices.
IOThreadInfo = TypedDict(
    "IOThreadInfo",
    {
        "id": str,
        "thread-id": int,
        "poll-max-ns": int,
        "poll-grow": int,
        "poll-shrink": int,
        "poll-weight": int,
        "aio-max-batch": int,
    },
)

# The position of a file descriptor.
AddfdInfo = TypedDict(
    "AddfdInfo",
    {
        "fdset-id": int,
        "fd": int,
    },
)


class FdsetFdInfo(TypedDict):
    """A file descriptor in a set."""

    fd: int
    opaque: NotRequired[str]


# A set of file descriptors.
FdsetInfo = TypedDict(
    "FdsetInfo",
    {
        "fdset-id": int,
        "fds": list[FdsetFdInfo],
    },
)

# A property of an object.
ObjectPropertyInfo = TypedDict(
    "ObjectPropertyInfo",
    {
        "name": str,
        "type": str,
        "description": NotRequired[str],
        "default-value": NotRequired[object],
    },
)


class ObjectTypeInfo(TypedDict):
    """A type of object."""

    name: str
    abstract: NotRequired[bool]
    parent: NotRequired[str]


# A character device.
ChardevInfo = TypedDict(
    "ChardevInfo",
    {
        "label": str,
        "filename": str,
        "frontend-open": bool,
    },
)

YankInstanceType = Literal["block-node", "chardev", "migration"]

# Names a block device.
YankInstanceBlockNode = TypedDict(
    "YankInstanceBlockNode",
    {
        "node-name": str,
    },
)


class YankInstanceChardev(TypedDict):
    """Names a character device."""

    id: str


YankInstanceTag = Literal["migration"]

# One kind of `YankInstance`.
YankInstanceBlockNode_ = TypedDict(
    "YankInstanceBlockNode_",
    {
        "type": Literal["block-node"],
        "node-name": str,
    },
)


class YankInstanceChardev_(TypedDict):
    """One kind of `YankInstance`."""

    type: Literal["chardev"]
    id: str


class YankInstancePlain(TypedDict):
    """One kind of `YankInstance`."""

    type: YankInstanceTag


YankInstance: TypeAlias = YankInstanceBlockNode_ | YankInstanceChardev_ | YankInstancePlain

StatsType = Literal["cumulative", "instant", "peak", "linear-histogram", "log2-histogram"]

StatsUnit = Literal["bytes", "seconds", "cycles", "boolean"]

StatsProvider = Literal["kvm", "cryptodev", "__org.qmpserver_soft"]

StatsTarget = Literal["vm", "vcpu", "cryptodev"]


class StatsRequest(TypedDict):
    """The requested statistics of a provider."""

    provider: StatsProvider
    names: NotRequired[list[str]]


class StatsVCPUFilter(TypedDict):
    """The requested virtual CPUs."""

    vcpus: NotRequired[list[str]]


StatsFilterTag = Literal["vm", "cryptodev"]


class StatsFilterVcpu(TypedDict):
    """One kind of `StatsFilter`."""

    target: Literal["vcpu"]
    providers: NotRequired[list[StatsRequest]]
    vcpus: NotRequired[list[str]]


class StatsFilterPlain(TypedDict):
    """One kind of `StatsFilter`."""

    target: StatsFilterTag
    providers: NotRequired[list[StatsRequest]]


StatsFilter: TypeAlias = StatsFilterVcpu | StatsFilterPlain

StatsValue: TypeAlias = int | bool | list[int]


class Stats(TypedDict):
    """A statistic."""

    name: str
    value: StatsValue


# The statistics of one object.
StatsResult = TypedDict(
    "StatsResult",
    {
        "provider": StatsProvider,
        "qom-path": NotRequired[str],
        "stats": list[Stats],
    },
)

# The meaning of a statistic.
StatsSchemaValue = TypedDict(
    "StatsSchemaValue",
    {
        "name": str,
        "type": StatsType,
        "unit": NotRequired[StatsUnit],
        "base": NotRequired[int],
        "exponent": int,
        "bucket-size": NotRequired[int],
    },
)


class StatsSchema(TypedDict):
    """The available statistics of one kind of object."""

    provider: StatsProvider
    target: StatsTarget
    stats: list[StatsSchemaValue]


TraceEventState = Literal["unavailable", "disabled", "enabled"]


class TraceEventInfo(TypedDict):
    """A trace event."""

    name: str
    state: TraceEventState


ReaperMode = Literal["event", "poll"]

ReaperState = Literal["idle", "reaping"]

# The reaper, the thread that empties the dirty rings.
Reaper = TypedDict(
    "Reaper",
    {
        "thread-id": int,
        "state": ReaperState,
        "turns": int,
        "kicks": int,
        "wakes": int,
        "coalesced-kicks": int,
        "fallback-turns": int,
        "last-kick-time": int,
        "last-wake-time": int,
        "last-idle-wake-time": int,
        "last-cancel-time": int,
        "kick-to-wake": list[int],
        "cancel-to-wake": list[int],
    },
)

# The dirty ring of one virtual CPU.
VcpuDirtyRing = TypedDict(
    "VcpuDirtyRing",
    {
        "cpu-index": int,
        "ring-size": int,
        "waiting": int,
        "full-exits": int,
        "pages-harvested": int,
        "overflows": int,
        "throttle-time": int,
        "longest-pause": int,
        "last-resume-time": int,
        "throttled": bool,
        "current-rate": NotRequired[int],
    },
)

# The dirty rings, and the threads that use them.
DirtyRing = TypedDict(
    "DirtyRing",
    {
        "mode": ReaperMode,
        "tracking": bool,
        "in-service": bool,
        "reaper": Reaper,
        "resets": int,
        "reset-shortfalls": int,
        "vcpus": list[VcpuDirtyRing],
    },
)


class ShutdownData(TypedDict):
    """The data of event `SHUTDOWN`."""

    guest: bool
    reason: ShutdownCause


class ResetData(TypedDict):
    """The data of event `RESET`."""

    guest: bool
    reason: ShutdownCause


class MigrationData(TypedDict):
    """The data of event `MIGRATION`."""

    status: MigrationStatus


# The data of event `MIGRATION_PASS`.
MigrationPassData = TypedDict(
    "MigrationPassData",
    {
        "pass": int,
    },
)


class MIGRATIONLATEData(TypedDict):
    """The data of event `__org.qmpserver_MIGRATION_LATE`."""

    promised: int
    expected: NotRequired[int]


class QueryStatusHandler(Protocol):
    """Handles `query-status`."""

    def __call__(self) -> Answer[StatusInfo]: ...


class WatchdogSetActionHandler(Protocol):
    """Handles `watchdog-set-action`."""

    def __call__(
        self,
        *,
        action: WatchdogAction,
    ) -> Answer[None]: ...


class SetActionHandler(Protocol):
    """Handles `set-action`."""

    def __call__(
        self,
        *,
        reboot: RebootAction = ...,
        shutdown: ShutdownAction = ...,
        panic: PanicAction = ...,
        watchdog: WatchdogAction = ...,
    ) -> Answer[None]: ...


class CalcDirtyRateHandler(Protocol):
    """Handles `calc-dirty-rate`."""

    def __call__(
        self,
        *,
        calc_time: int,
        calc_time_unit: TimeUnit = ...,
        sample_pages: int = ...,
        mode: DirtyRateMeasureMode = ...,
    ) -> Answer[None]: ...


class QueryDirtyRateHandler(Protocol):
    """Handles `query-dirty-rate`."""

    def __call__(
        self,
        *,
        calc_time_unit: TimeUnit = ...,
    ) -> Answer[DirtyRateInfo]: ...


class SetVcpuDirtyLimitHandler(Protocol):
    """Handles `set-vcpu-dirty-limit`."""

    def __call__(
        self,
        *,
        cpu_index: int = ...,
        dirty_rate: int,
    ) -> Answer[None]: ...


class CancelVcpuDirtyLimitHandler(Protocol):
    """Handles `cancel-vcpu-dirty-limit`."""

    def __call__(
        self,
        *,
        cpu_index: int = ...,
    ) -> Answer[None]: ...


class QueryVcpuDirtyLimitHandler(Protocol):
    """Handles `query-vcpu-dirty-limit`."""

    def __call__(self) -> Answer[list[DirtyLimitInfo]]: ...


class QueryMigrateHandler(Protocol):
    """Handles `query-migrate`."""

    def __call__(self) -> Answer[MigrationInfo]: ...


class MigrateSetCapabilitiesHandler(Protocol):
    """Handles `migrate-set-capabilities`."""

    def __call__(
        self,
        *,
        capabilities: list[MigrationCapabilityStatus],
    ) -> Answer[None]: ...


class QueryMigrateCapabilitiesHandler(Protocol):
    """Handles `query-migrate-capabilities`."""

    def __call__(self) -> Answer[list[MigrationCapabilityStatus]]: ...


class MigrateSetParametersHandler(Protocol):
    """Handles `migrate-set-parameters`."""

    def __call__(self, **arguments: object) -> Answer[None]: ...


class QueryMigrateParametersHandler(Protocol):
    """Handles `query-migrate-parameters`."""

    def __call__(self) -> Answer[MigrationParameters]: ...


class MigrateCancelHandler(Protocol):
    """Handles `migrate_cancel`."""

    def __call__(self) -> Answer[None]: ...


class MigrateContinueHandler(Protocol):
    """Handles `migrate-continue`."""

    def __call__(
        self,
        *,
        state: MigrationStatus,
    ) -> Answer[None]: ...


class MigrateHandler(Protocol):
    """Handles `migrate`."""

    def __call__(
        self,
        *,
        uri: str = ...,
        channels: list[MigrationChannel] = ...,
        resume: bool = ...,
    ) -> Answer[None]: ...


class MigrateIncomingHandler(Protocol):
    """Handles `migrate-incoming`."""

    def __call__(
        self,
        *,
        uri: str = ...,
        channels: list[MigrationChannel] = ...,
        exit_on_error: bool = ...,
    ) -> Answer[None]: ...


class QueryMigrationForecastHandler(Protocol):
    """Handles `__org.qmpserver_query-migration-forecast`."""

    def __call__(
        self,
        *,
        bandwidth: int = ...,
    ) -> Answer[MigrationForecast]: ...


class QmpCapabilitiesHandler(Protocol):
    """Handles `qmp_capabilities`."""

    def __call__(
        self,
        *,
        enable: list[QMPCapability] = ...,
    ) -> Answer[None]: ...


class QueryVersionHandler(Protocol):
    """Handles `query-version`."""

    def __call__(self) -> Answer[VersionInfo]: ...


class QueryCommandsHandler(Protocol):
    """Handles `query-commands`."""

    def __call__(self) -> Answer[list[CommandInfo]]: ...


class QuitHandler(Protocol):
    """Handles `quit`."""

    def __call__(self) -> Answer[None]: ...


class QueryQmpSchemaHandler(Protocol):
    """Handles `query-qmp-schema`."""

    def __call__(self) -> Answer[list[SchemaInfo]]: ...


class QueryJobsHandler(Protocol):
    """Handles `query-jobs`."""

    def __call__(self) -> Answer[list[JobInfo]]: ...


class QueryBlockHandler(Protocol):
    """Handles `query-block`."""

    def __call__(
        self,
        *,
        flat: bool = ...,
    ) -> Answer[list[BlockInfo]]: ...


class QueryNamedBlockNodesHandler(Protocol):
    """Handles `query-named-block-nodes`."""

    def __call__(
        self,
        *,
        flat: bool = ...,
    ) -> Answer[list[BlockDeviceInfo]]: ...


class QueryCpusFastHandler(Protocol):
    """Handles `query-cpus-fast`."""

    def __call__(self) -> Answer[list[CpuInfoFast]]: ...


class QueryMachinesHandler(Protocol):
    """Handles `query-machines`."""

    def __call__(
        self,
        *,
        compat_props: bool = ...,
    ) -> Answer[list[MachineInfo]]: ...


class QueryTargetHandler(Protocol):
    """Handles `query-target`."""

    def __call__(self) -> Answer[TargetInfo]: ...


class QueryUuidHandler(Protocol):
    """Handles `query-uuid`."""

    def __call__(self) -> Answer[UuidInfo]: ...


class SystemResetHandler(Protocol):
    """Handles `system_reset`."""

    def __call__(self) -> Answer[None]: ...


class SystemPowerdownHandler(Protocol):
    """Handles `system_powerdown`."""

    def __call__(self) -> Answer[None]: ...


class QueryMemorySizeSummaryHandler(Protocol):
    """Handles `query-memory-size-summary`."""

    def __call__(self) -> Answer[MemoryInfo]: ...


class QueryHotpluggableCpusHandler(Protocol):
    """Handles `query-hotpluggable-cpus`."""

    def __call__(self) -> Answer[list[HotpluggableCPU]]: ...


class QueryCpuDefinitionsHandler(Protocol):
    """Handles `query-cpu-definitions`."""

    def __call__(self) -> Answer[list[CpuDefinitionInfo]]: ...


class QueryKvmHandler(Protocol):
    """Handles `query-kvm`."""

    def __call__(self) -> Answer[KvmInfo]: ...


class QueryAcceleratorsHandler(Protocol):
    """Handles `query-accelerators`."""

    def __call__(self) -> Answer[AcceleratorInfo]: ...


class QueryNameHandler(Protocol):
    """Handles `query-name`."""

    def __call__(self) -> Answer[NameInfo]: ...


class StopHandler(Protocol):
    """Handles `stop`."""

    def __call__(self) -> Answer[None]: ...


class ContHandler(Protocol):
    """Handles `cont`."""

    def __call__(self) -> Answer[None]: ...


class HumanMonitorCommandHandler(Protocol):
    """Handles `human-monitor-command`."""

    def __call__(
        self,
        *,
        command_line: str,
        cpu_index: int = ...,
    ) -> Answer[str]: ...


class QueryCommandLineOptionsHandler(Protocol):
    """Handles `query-command-line-options`."""

    def __call__(
        self,
        *,
        option: str = ...,
    ) -> Answer[list[CommandLineOptionInfo]]: ...


class QueryIothreadsHandler(Protocol):
    """Handles `query-iothreads`."""

    def __call__(self) -> Answer[list[IOThreadInfo]]: ...


class GetfdHandler(Protocol):
    """Handles `getfd`."""

    def __call__(
        self,
        *,
        fdname: str,
    ) -> Answer[None]: ...


class ClosefdHandler(Protocol):
    """Handles `closefd`."""

    def __call__(
        self,
        *,
        fdname: str,
    ) -> Answer[None]: ...


class AddFdHandler(Protocol):
    """Handles `add-fd`."""

    def __call__(
        self,
        *,
        fdset_id: int = ...,
        opaque: str = ...,
    ) -> Answer[AddfdInfo]: ...


class RemoveFdHandler(Protocol):
    """Handles `remove-fd`."""

    def __call__(
        self,
        *,
        fdset_id: int,
        fd: int = ...,
    ) -> Answer[None]: ...


class QueryFdsetsHandler(Protocol):
    """Handles `query-fdsets`."""

    def __call__(self) -> Answer[list[FdsetInfo]]: ...


class QomListHandler(Protocol):
    """Handles `qom-list`."""

    def __call__(
        self,
        *,
        path: str,
    ) -> Answer[list[ObjectPropertyInfo]]: ...


class QomGetHandler(Protocol):
    """Handles `qom-get`."""

    def __call__(
        self,
        *,
        path: str,
        property: str,
    ) -> Answer[object]: ...


class QomListTypesHandler(Protocol):
    """Handles `qom-list-types`."""

    def __call__(
        self,
        *,
        implements: str = ...,
        abstract: bool = ...,
    ) -> Answer[list[ObjectTypeInfo]]: ...


class QomListPropertiesHandler(Protocol):
    """Handles `qom-list-properties`."""

    def __call__(
        self,
        *,
        typename: str,
    ) -> Answer[list[ObjectPropertyInfo]]: ...


class DeviceListPropertiesHandler(Protocol):
    """Handles `device-list-properties`."""

    def __call__(
        self,
        *,
        typename: str,
    ) -> Answer[list[ObjectPropertyInfo]]: ...


class QueryChardevHandler(Protocol):
    """Handles `query-chardev`."""

    def __call__(self) -> Answer[list[ChardevInfo]]: ...


class YankHandler(Protocol):
    """Handles `yank`."""

    def __call__(
        self,
        *,
        instances: list[YankInstance],
    ) -> Answer[None]: ...


class QueryYankHandler(Protocol):
    """Handles `query-yank`."""

    def __call__(self) -> Answer[list[YankInstance]]: ...


class QueryStatsHandler(Protocol):
    """Handles `query-stats`."""

    def __call__(self, **arguments: object) -> Answer[list[StatsResult]]: ...


class QueryStatsSchemasHandler(Protocol):
    """Handles `query-stats-schemas`."""

    def __call__(
        self,
        *,
        provider: StatsProvider = ...,
    ) -> Answer[list[StatsSchema]]: ...


class TraceEventGetStateHandler(Protocol):
    """Handles `trace-event-get-state`."""

    def __call__(
        self,
        *,
        name: str,
    ) -> Answer[list[TraceEventInfo]]: ...


class TraceEventSetStateHandler(Protocol):
    """Handles `trace-event-set-state`."""

    def __call__(
        self,
        *,
        name: str,
        enable: bool,
        ignore_unavailable: bool = ...,
    ) -> Answer[None]: ...


class QueryDirtyRingHandler(Protocol):
    """Handles `__org.qmpserver_query-dirty-ring`."""

    def __call__(self) -> Answer[DirtyRing]: ...


# The type of each command's handler.
Handlers = TypedDict(
    "Handlers",
    {
        "query-status": QueryStatusHandler,
        "watchdog-set-action": WatchdogSetActionHandler,
        "set-action": SetActionHandler,
        "calc-dirty-rate": CalcDirtyRateHandler,
        "query-dirty-rate": QueryDirtyRateHandler,
        "set-vcpu-dirty-limit": SetVcpuDirtyLimitHandler,
        "cancel-vcpu-dirty-limit": CancelVcpuDirtyLimitHandler,
        "query-vcpu-dirty-limit": QueryVcpuDirtyLimitHandler,
        "query-migrate": QueryMigrateHandler,
        "migrate-set-capabilities": MigrateSetCapabilitiesHandler,
        "query-migrate-capabilities": QueryMigrateCapabilitiesHandler,
        "migrate-set-parameters": MigrateSetParametersHandler,
        "query-migrate-parameters": QueryMigrateParametersHandler,
        "migrate_cancel": MigrateCancelHandler,
        "migrate-continue": MigrateContinueHandler,
        "migrate": MigrateHandler,
        "migrate-incoming": MigrateIncomingHandler,
        "__org.qmpserver_query-migration-forecast": QueryMigrationForecastHandler,
        "qmp_capabilities": QmpCapabilitiesHandler,
        "query-version": QueryVersionHandler,
        "query-commands": QueryCommandsHandler,
        "quit": QuitHandler,
        "query-qmp-schema": QueryQmpSchemaHandler,
        "query-jobs": QueryJobsHandler,
        "query-block": QueryBlockHandler,
        "query-named-block-nodes": QueryNamedBlockNodesHandler,
        "query-cpus-fast": QueryCpusFastHandler,
        "query-machines": QueryMachinesHandler,
        "query-target": QueryTargetHandler,
        "query-uuid": QueryUuidHandler,
        "system_reset": SystemResetHandler,
        "system_powerdown": SystemPowerdownHandler,
        "query-memory-size-summary": QueryMemorySizeSummaryHandler,
        "query-hotpluggable-cpus": QueryHotpluggableCpusHandler,
        "query-cpu-definitions": QueryCpuDefinitionsHandler,
        "query-kvm": QueryKvmHandler,
        "query-accelerators": QueryAcceleratorsHandler,
        "query-name": QueryNameHandler,
        "stop": StopHandler,
        "cont": ContHandler,
        "human-monitor-command": HumanMonitorCommandHandler,
        "query-command-line-options": QueryCommandLineOptionsHandler,
        "query-iothreads": QueryIothreadsHandler,
        "getfd": GetfdHandler,
        "closefd": ClosefdHandler,
        "add-fd": AddFdHandler,
        "remove-fd": RemoveFdHandler,
        "query-fdsets": QueryFdsetsHandler,
        "qom-list": QomListHandler,
        "qom-get": QomGetHandler,
        "qom-list-types": QomListTypesHandler,
        "qom-list-properties": QomListPropertiesHandler,
        "device-list-properties": DeviceListPropertiesHandler,
        "query-chardev": QueryChardevHandler,
        "yank": YankHandler,
        "query-yank": QueryYankHandler,
        "query-stats": QueryStatsHandler,
        "query-stats-schemas": QueryStatsSchemasHandler,
        "trace-event-get-state": TraceEventGetStateHandler,
        "trace-event-set-state": TraceEventSetStateHandler,
        "__org.qmpserver_query-dirty-ring": QueryDirtyRingHandler,
    },
)
