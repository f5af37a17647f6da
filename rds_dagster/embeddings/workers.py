"""Several devices of one machine: a process each, and batches handed out to whichever has room.

The batches are made here and a row's bits do not depend on its company, so the vectors have the bits that one process would give them.
Processes are started for one stream and end with it; to load a model takes seconds, so a short stream is better run on one device.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread
from types import TracebackType

from rds_dagster.embeddings.backbone import EncodedBatch
from rds_dagster.embeddings.batching import Batch, Rules
from rds_dagster.embeddings.devices import kind_of
from rds_dagster.embeddings.identity import EncoderIdentity
from rds_dagster.embeddings.running import load_runner
from rds_dagster.errors import RdsError, StateError

JOIN_S = 10.0  # for a process to be gone that has ended its work, or closed its pipe
CLOSED = (EOFError, BrokenPipeError, ConnectionResetError)  # what a pipe says whose other end is gone


@dataclass(frozen=True)
class _Ready:
    """A process has its model: the rules of its batches, and how many it wants to hold so that it always has one to go on with."""

    rules: Rules
    room: int


class Workers:
    """A process for each of ``devices`` (torch's names; one may stand several times), each with the model of ``identity``; use it in a ``with``.

    ``cores``: of this machine, shared by the devices that are CPUs. Raises what loading a model raises, and StateError where a process ends
    before its work. A script that comes here does so under ``if __name__ == "__main__"``, as for all processes that Python spawns.
    """

    rules: Rules

    def __init__(self, identity: EncoderIdentity, devices: tuple[str, ...], cores: int) -> None:
        self._identity = identity
        self._devices = devices
        self._cores = max(1, cores // len(devices))
        self._lanes: list[_Lane] = []

    def __enter__(self) -> Workers:
        try:
            self._lanes = [_Lane(self._identity, device, self._cores) for device in self._devices]
            for lane in self._lanes:
                lane.meet()
        except BaseException:
            self._stop()
            raise
        self.rules = self._lanes[0].rules
        assert all(lane.rules == self.rules for lane in self._lanes), "devices of one kind, one model"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def run(self, batches: Iterable[Batch]) -> Iterator[EncodedBatch]:
        """The batches' vectors, in the order in which they are done; raises StateError where one is not finite, or a process ends. Once only."""
        for batch in batches:
            while not (free := [lane for lane in self._lanes if lane.has_room]):
                yield from self._done()
            min(free, key=lambda lane: lane.held).give(batch)
        for lane in self._lanes:
            lane.give(None)
        while any(lane.held for lane in self._lanes):
            yield from self._done()

    def _done(self) -> Iterator[EncodedBatch]:
        """What is done, after the first; a process that has ended is found here too, for its pipe is closed."""
        lanes = {lane.pipe: lane for lane in self._lanes if lane.held}
        for pipe in wait(list(lanes)):
            assert isinstance(pipe, Connection)
            yield lanes[pipe].take()

    def _stop(self) -> None:
        for lane in self._lanes:
            lane.stop()


class _Lane:
    """One process and the pipe to it. ``held``: batches that it has and whose vectors it has not given back."""

    def __init__(self, identity: EncoderIdentity, device: str, cores: int) -> None:
        spawn = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, nor threads that stood in this one
        self.pipe, theirs = spawn.Pipe()
        self.held = 0
        self._device = device
        self._is_done = False
        self._process = spawn.Process(target=_work, args=(theirs, identity, device, cores), name=f"embed on {device}", daemon=True)
        self._process.start()
        theirs.close()  # or the pipe would stay open when the process is gone

    @property
    def has_room(self) -> bool:
        return self.held < self._room

    def meet(self) -> None:
        """Wait until its model is loaded."""
        ready = self._hear()
        assert isinstance(ready, _Ready)
        self.rules, self._room = ready.rules, ready.room

    def give(self, batch: Batch | None) -> None:
        """A batch, or None after the last."""
        try:
            self.pipe.send(batch)
        except CLOSED as error:
            raise self._ended() from error
        self._is_done = batch is None
        self.held += batch is not None

    def take(self) -> EncodedBatch:
        """Wait for the vectors of the batch that it has had for longest."""
        encoded = self._hear()
        assert isinstance(encoded, EncodedBatch)
        self.held -= 1
        return encoded

    def stop(self) -> None:
        """End the process: in peace if it has done all, else at once."""
        if not self._is_done or self.held:
            self._process.terminate()
        self._process.join(JOIN_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.pipe.close()

    def _hear(self) -> object:
        try:
            word: object = self.pipe.recv()
        except CLOSED as error:
            raise self._ended() from error
        if isinstance(word, RdsError):
            raise word
        return word

    def _ended(self) -> StateError:
        self._process.join(JOIN_S)
        code = self._process.exitcode
        why = " (killed, perhaps for want of memory)" if code == -signal.SIGKILL else ""
        return StateError(
            f"the process that embeds on {self._device} ended with exit code {code}{why} before its work was done; "
            "its last words stand above. Mend that and run again: what was stored before stays"
        )


def _work(pipe: Connection, identity: EncoderIdentity, device: str, cores: int) -> None:
    """A worker's whole life: load the model, say so, give vectors for batches until None comes."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    if kind_of(device) == "cuda":
        torch.cuda.set_device(device)
    try:
        runner = load_runner(identity, device, cores)
        pipe.send(_Ready(runner.rules, runner.ahead + 1))
        for encoded in runner.run(_coming(pipe)):
            pipe.send(encoded)
    except RdsError as error:
        pipe.send(error)
    except CLOSED:  # the parent is gone
        return


def _coming(pipe: Connection) -> Iterator[Batch]:
    """The batches as they come. A thread takes them in, so that the parent never waits to give one while this process waits to give vectors."""
    waiting: SimpleQueue[Batch | None] = SimpleQueue()

    def take_in() -> None:
        batch: Batch | None = None
        while True:
            try:
                batch = pipe.recv()
            except CLOSED:
                batch = None
            waiting.put(batch)
            if batch is None:
                return

    Thread(target=take_in, name="take in batches", daemon=True).start()
    while (batch := waiting.get()) is not None:
        yield batch
