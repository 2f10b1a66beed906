"""Pause, resume, cancel and stop of an update that runs in a trainer process."""

import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import pytest
import zmq
from trainer_home import FIRST, LONG, SETTINGS, Home, request

from agents.model import protocol
from agents.trainer.client import TrainerClient
from agents.trainer.messages import Status, StepReport, TrainRequest
from corpus.errors import TrainerFault, UpdateCancelled

PATIENCE = {"beat": 0.1, "patience": 0.5}
"""Seconds: of a client that soon takes a trainer for dead."""
Order = Callable[[TrainerClient], Awaitable[Any]]


def during(home: Home, update: TrainRequest, order: Order, **patience: float) -> list[StepReport]:
    """Begin an update and give an order after its first step; return its steps, or raise its error."""
    steps: list[StepReport] = []
    faults: list[Exception] = []

    async def conversation(client: TrainerClient) -> None:
        begun = anyio.Event()

        def on_step(step: StepReport) -> None:
            steps.append(step)
            begun.set()

        async def train() -> None:
            try:
                await client.train(update, on_step)
            except TrainerFault as fault:
                faults.append(fault)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(train)
            await begun.wait()
            await order(client)

    home.call(conversation, **patience)
    if faults:
        raise faults[0]
    return steps


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process's main thread so far."""
    fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def paused(client: TrainerClient) -> Status:
    """Pause the update; return its status once it waits."""
    assert await client.pause()
    while not (status := await client.status()).paused:
        pass
    return status


def test_a_paused_update_waits_between_two_steps_and_ends_like_one_that_was_never_paused(home: Home) -> None:
    update = request(home.first, settings=replace(SETTINGS, epochs=20))
    home.ask("train", update)
    expected = home.weights()
    home.ask("rollback", home.first, settled=True)

    async def wait_and_go_on(client: TrainerClient) -> None:
        status = await paused(client)
        assert status.doing == "train" and status.dirty and 1 <= status.step < status.steps == 60
        held, used, until = (
            home.weights(),
            processor_seconds(status.pid),
            monotonic() + 4 * PATIENCE["patience"],
        )
        while monotonic() < until:  # the one who waits for the update keeps seeing signs of life
            assert await client.status() == status
        assert home.serves(held) and processor_seconds(status.pid) - used < 0.1  # it waits, and does not spin
        assert await client.resume()

    steps = during(home, update, wait_and_go_on, **PATIENCE)
    assert [step.step for step in steps] == list(range(1, 61))
    assert home.serves(expected) and not home.ask("status").paused


def test_a_cancelled_update_is_undone_bit_for_bit_whether_it_runs_or_waits(home: Home) -> None:
    before = home.weights()

    async def cancel(client: TrainerClient) -> None:
        assert await client.cancel("cancelled by hand")

    async def pause_and_cancel(client: TrainerClient) -> None:
        await paused(client)
        await cancel(client)

    for order in (cancel, pause_and_cancel):
        with pytest.raises(UpdateCancelled, match="cancelled by hand: nothing of the update was kept"):
            during(home, request(home.first, settings=LONG), order)
        assert home.serves(before) and home.shared.holds == home.first and not home.shared.dirty
        with pytest.raises(TrainerFault, match="train before"):
            home.ask("checkpoint", home.first, {})


def test_an_order_applies_only_to_the_current_update(home: Home) -> None:
    async def orders(client: TrainerClient) -> list[bool]:
        return [await client.pause(), await client.resume(), await client.cancel("too early")]

    assert home.call(orders) == [False, False, False]
    assert home.ask("train", request(home.first)).steps == 3

    async def pause_and_cancel(client: TrainerClient) -> None:
        await paused(client)
        await client.cancel("enough")

    for _ in range(2):  # the same request again, under the same name
        with pytest.raises(UpdateCancelled):
            during(home, request(home.first, settings=LONG), pause_and_cancel)
    assert home.ask("train", request(home.first)).steps == 3


def test_an_update_without_its_client_can_be_requested_again_while_it_waits(home: Home) -> None:
    update = request(home.first, settings=replace(SETTINGS, epochs=20))

    async def leave_and_come_back(client: TrainerClient) -> int:
        async with anyio.create_task_group() as tasks:
            begun = anyio.Event()

            async def train() -> None:
                await client.train(update, lambda _: begun.set(), request_id="left")

            tasks.start_soon(train)
            await begun.wait()
            await paused(client)
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:

            async def go_on() -> None:
                while not await client.resume():
                    pass

            tasks.start_soon(go_on)
            return (await client.train(update, request_id="left")).steps

    assert home.call(leave_and_come_back) == 60


@pytest.mark.parametrize("how", ["SIGTERM", pytest.param("stop", marks=pytest.mark.slow)])
def test_a_trainer_is_stopped_while_its_update_waits(
    make_home: Callable[[], Path], start: Callable[..., Any], how: str
) -> None:
    home = Home(make_home())
    process = start(home.path)
    home.first = home.ask("checkpoint", None, FIRST).id
    before = home.weights()

    async def stop(client: TrainerClient) -> None:
        await paused(client)
        if how == "stop":
            await client.stop()
        else:
            process.send_signal(signal.SIGTERM)

    with pytest.raises(TrainerFault, match="is stopping"):
        during(home, request(home.first, settings=LONG), stop)
    assert process.wait(30) == 0
    assert home.serves(before) and home.shared.holds == home.first and not home.shared.dirty


def test_one_request_too_many_is_refused_as_busy_and_the_others_are_answered(home: Home) -> None:
    from agents.trainer.process.rpc import PENDING

    asked = [protocol.RpcRequest(id=f"r{i}", verb="logprobs", body={}) for i in range(PENDING)]

    async def crowd(client: TrainerClient) -> None:
        await paused(client)
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(protocol.address(home.path / "run"))
            for one in asked:
                socket.send_multipart(protocol.pack_request(one))
            assert socket.poll(20_000)
            refusal = protocol.unpack_reply(socket.recv_multipart())
            assert (
                refusal.id == asked[-1].id and "busy" in refusal.body["message"]
            )  # the update is one of them
            assert (await client.status()).paused
            assert await client.resume()
            answers = set()
            while len(answers) < PENDING - 1:
                assert socket.poll(20_000)
                answers.add(protocol.unpack_reply(socket.recv_multipart()).id)
            assert answers == {one.id for one in asked[:-1]}

    during(home, request(home.first, settings=replace(SETTINGS, epochs=5)), crowd)
