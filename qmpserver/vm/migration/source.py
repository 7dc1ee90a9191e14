"""The outgoing side: rounds over the dirty pages while the guest runs, then the switchover.

The rules that keep a guest from running twice or never are in README.md.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from qmpserver.migration import wire
from qmpserver.migration.channels import Channel, open_channel
from qmpserver.migration.policies.auto_converge import AutoConverge
from qmpserver.migration.policies.dirty_limit import DirtyLimit
from qmpserver.migration.policies.promise import Promise
from qmpserver.vm.accel.stream import Sender
from qmpserver.vm.migration.answers import Answers
from qmpserver.vm.migration.description import describe
from qmpserver.vm.migration.ending import to_the_end
from qmpserver.vm.migration.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpserver.migration.address import Address
    from qmpserver.migration.capabilities import Capabilities
    from qmpserver.migration.info import Figures
    from qmpserver.migration.parameters import Parameters
    from qmpserver.migration.policies.policy import Policy
    from qmpserver.migration.status import Status
    from qmpserver.monitor.fds import Passed
    from qmpserver.vm.dirty.worker import Worker
    from qmpserver.vm.machine.runstate import RunState
    from qmpserver.vm.migration.movable import Movable

MAX_HELLO = 4096  # bytes
ALIGNMENT = 2 << 20  # of RAM in a file


class Source:
    """One outgoing migration. Belongs to the event loop's thread.

    Args:
        machine: The machine whose guest moves.
        capabilities: Read at the start.
        parameters: Read all the time: bandwidth and downtime may change under way.
        figures: Updated as it goes.
        worker: Calls that block run there.
        enter: Called with each new status.
        emit_pass: Called with the number of each round.
        emit_late: Called with the expected seconds when the promise cannot be kept any more;
            infinite if no end is in sight.

    Attributes:
        committed: The destination was told to run the guest: it must not run here again.
    """

    def __init__(
        self,
        machine: Movable,
        capabilities: Capabilities,
        parameters: Parameters,
        figures: Figures,
        worker: Worker,
        enter: Callable[[Status], None],
        emit_pass: Callable[[int], None],
        emit_late: Callable[[float], None],
    ) -> None:
        self.committed = False
        self._machine = machine
        self._capabilities = capabilities
        self._parameters = parameters
        self._figures = figures
        self._worker = worker
        self._enter = enter
        self._emit_pass = emit_pass
        self._emit_late = emit_late
        self._channels: list[Channel] = []  # the main one first
        self._sender: Sender | None = None
        self._mapped: int | None = None  # where RAM begins in a file with `mapped-ram`
        self._answers: Answers | None = None
        self._rounds: Rounds | None = None
        self._continued = asyncio.Event()
        self._before: RunState | None = None  # the run state before the switchover

    def continue_(self) -> None:
        """Go on after the pause before the switchover."""
        self._continued.set()

    def set_bandwidth(self) -> None:
        """Apply a changed `max-bandwidth`, also in the middle of a round."""
        if self._sender is not None and self._before is None:
            self._sender.set_rate(self._parameters["max-bandwidth"])

    async def run(self, address: Address, passed: Passed) -> None:
        """Move the guest. If it raises and `committed` is not set, the guest runs on here.

        Raises:
            OSError, StreamError, DeviceError, CommandError: It failed; the text says why.
            CancelledError: It was cancelled.
        """
        tracking = self._machine.tracking
        started = time.monotonic()
        try:
            main = await open_channel(address, passed)
            self._channels.append(main)
            sender = self._sender = await self._set_up(main, address, passed)
            answers = self._answers = Answers(main)
            sender.set_rate(self._parameters["max-bandwidth"])
            self._figures.setup_time = round((time.monotonic() - started) * 1000)
            tracking.acquire(self)
            await tracking.wait()
            rounds = self._rounds = Rounds(
                self._machine,
                sender,
                answers,
                self._worker,
                self._parameters,
                self._figures,
                self._emit_pass,
                self._emit_late,
                started,
            )
            await rounds.begin()
            self._enter("active")
            await rounds.converge(self._policy())
            await self._switch_over(main, answers, rounds)
        except BaseException:
            if self._before is not None:
                self._machine.leave_finish_migrate(
                    "postmigrate" if self.committed else self._before
                )
            raise
        finally:
            self.count()
            tracking.release(self)
            await to_the_end(self._release())

    def _policy(self) -> Policy:
        parameters = self._parameters
        threshold = parameters["throttle-trigger-threshold"]
        if self._capabilities["dirty-limit"]:
            return DirtyLimit(parameters["vcpu-dirty-limit"], trigger_threshold=threshold)
        if self._capabilities["auto-converge"]:
            return AutoConverge(
                trigger_threshold=threshold,
                initial=parameters["cpu-throttle-initial"],
                increment=parameters["cpu-throttle-increment"],
                tailslow=parameters["cpu-throttle-tailslow"],
                maximum=parameters["max-cpu-throttle"],
            )
        return Promise()  # without a promise it only waits until the rest fits

    @property
    def limits_vcpus(self) -> bool:
        """Whether it limits the guest's vCPUs now; clients must not change limits then."""
        return self._rounds is not None and self._rounds.limits_vcpus

    async def _set_up(self, main: Channel, address: Address, passed: Passed) -> Sender:
        """Agree with the destination and open the data channels."""
        ram = self._machine.ram
        hello = describe(self._machine, identify=self._capabilities["validate-uuid"])
        extra = self._parameters["multifd-channels"] if self._capabilities["multifd"] else 0
        if self._capabilities["mapped-ram"]:
            self._mapped = -(-(main.position + MAX_HELLO) // ALIGNMENT) * ALIGNMENT
            await main.send("hello", **hello, mapped=self._mapped)
            fds = [main.fd] * max(extra, 1)
            return Sender(ram, fds, engine=self._machine.accel.engine, mapped=self._mapped)
        cookie = os.urandom(16).hex()
        await main.send("hello", **hello, channels=extra, cookie=cookie)
        if main.two_way:
            wire.expect(await main.receive(), "welcome")
        for number in range(extra):
            channel = await open_channel(address, passed)
            self._channels.append(channel)
            await channel.send("hello", channel=number, cookie=cookie)
        carriers = self._channels[1:] or self._channels
        fds = [carrier.fd for carrier in carriers]
        return Sender(ram, fds, engine=self._machine.accel.engine)

    async def _switch_over(self, main: Channel, answers: Answers, rounds: Rounds) -> None:
        stopped_at = time.monotonic()
        await to_the_end(self._stop())
        if self._capabilities["pause-before-switchover"]:
            self._enter("pre-switchover")
            await answers.unless(self._continued.wait())
        self._enter("device")
        async with self._machine.changing:  # no reset between the state and the last pages
            # To its end: a guest must not run, or be reset, meanwhile.
            state = await to_the_end(self._worker.run(self._machine.accel.save_state))
            await rounds.harvest()  # after the state: reading it can write to RAM
            await rounds.send_rest()
            if self._mapped is not None:
                main.seek(self._mapped + self._machine.ram.size)
            limits = rounds.own_limits
            await main.send("state", state=state, limits=limits, run_state=self._before)
            await answers.expect("ready")
            self.committed = True
            await main.send("go")
            await answers.expect("running")
            await main.finish()
            self._figures.downtime = round((time.monotonic() - stopped_at) * 1000)
            self._machine.leave_finish_migrate("postmigrate")

    async def _stop(self) -> None:
        self._before = await self._machine.stop_to_migrate()

    def count(self) -> None:
        """Bring the figures up to date."""
        if self._rounds is not None:
            self._rounds.count()
            if len(self._channels) > 1:
                self._figures.multifd_bytes = self._figures.transferred

    async def _release(self) -> None:
        rounds, self._rounds = self._rounds, None  # commands come while all is being closed
        if rounds is not None:
            rounds.lift_limits()
            rounds.close()
        if self._answers is not None:
            await self._answers.close()
        if self._sender is not None:
            sender, self._sender = self._sender, None
            sender.stop()
            await self._worker.run(sender.close)
            # Nobody waits for it: the guest has gone, or what comes next is after it on the thread.
            self._worker.begin(self._machine.accel.engine.defer_protection, False)
        for channel in self._channels:
            channel.close()
