"""What the exchange says to lanes of workers: who goes on, who makes room. No Ray."""

import asyncio

import pytest

from orchestrator.run import lanes
from orchestrator.run.lanes import Exchange, Need
from orchestrator.run.worker import Parameters

SMALL, LARGE = Need(1, 1.0, 1.0, 60.0), Need(4, 1.0, 1.0, 60.0)
TASK: Parameters = {"task": "{}", "attempt": 1, "micro_batches": 1}


async def working(exchange: Exchange, lane: str, need: Need) -> None:
    """Open a lane whose workers have come."""
    await exchange.open(lane, need)
    for rank in range(need.workers):
        await exchange.join(lane, rank, None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PATIENCE_S", -1.0)
    monkeypatch.setattr(lanes, "LOOK_S", 0.01)


def test_a_lane_that_is_warm_goes_on_as_long_as_none_waits() -> None:
    async def story() -> None:
        exchange = Exchange()
        await working(exchange, "small", SMALL)
        assert await exchange.hand("small", "first", TASK) == (0, None)
        assert await exchange.take("small", 0) == TASK
        await exchange.open("large", LARGE)  # it has just begun to wait
        assert await exchange.hand("small", "second", TASK) == (1, None)

    asyncio.run(story())


@pytest.mark.usefixtures("impatient")
def test_small_lanes_make_room_for_a_larger_one_that_has_waited_for_long() -> None:
    async def story() -> None:
        exchange = Exchange()
        await working(exchange, "small", SMALL)
        assert await exchange.hand("small", "first", TASK) is not None
        await exchange.open("large", LARGE)
        assert await exchange.hand("small", "second", TASK) is None
        assert await exchange.take("small", 1) is None  # its workers go home

        await working(exchange, "another", SMALL)
        await exchange.open("next", SMALL)  # of the driver that was sent away: it waits behind the large one
        turn = asyncio.create_task(exchange.turn("next"))
        await asyncio.sleep(0.1)
        assert not turn.done()
        assert await exchange.turn("large")
        for rank in range(LARGE.workers):
            await exchange.join("large", rank, None)
        assert await turn

    asyncio.run(story())


@pytest.mark.usefixtures("impatient")
def test_a_large_lane_that_cannot_come_even_alone_keeps_nobody_waiting() -> None:
    async def story() -> None:
        exchange = Exchange()
        await exchange.open("large", LARGE)
        await exchange.open("small", SMALL)
        assert await asyncio.wait_for(exchange.turn("small"), 10)

    asyncio.run(story())


@pytest.mark.usefixtures("impatient")
def test_a_lane_that_is_let_go_before_its_turn_asks_for_nothing() -> None:
    async def story() -> None:
        exchange = Exchange()
        await working(exchange, "busy", SMALL)
        await exchange.open("large", LARGE)
        await exchange.open("small", SMALL)
        turn = asyncio.create_task(exchange.turn("small"))
        await exchange.close("small")
        assert not await turn

    asyncio.run(story())


@pytest.mark.usefixtures("impatient")
def test_the_lane_of_a_driver_that_was_lost_holds_up_nobody() -> None:
    async def story() -> None:
        exchange = Exchange()
        await working(exchange, "lost", SMALL)
        await exchange.hand("lost", "first", TASK)
        await exchange.open("large", LARGE)
        await exchange.open("small", SMALL)
        assert await exchange.hand("small", "first", TASK) == (0, "lost")
        assert await asyncio.wait_for(exchange.turn("small"), 10)

    asyncio.run(story())


def test_a_lane_ends_after_a_while_without_a_training_unless_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "IDLE_S", 0.05)

    async def story() -> None:
        exchange = Exchange()
        for lane in ("idle", "held"):
            await working(exchange, lane, SMALL)
        await exchange.hold("held")
        waiting = asyncio.create_task(exchange.take("held", 0))
        assert await exchange.take("idle", 0) is None
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await exchange.close("held")
        assert await waiting is None

    asyncio.run(story())
