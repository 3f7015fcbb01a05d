"""The account of a cache directory, while some store and remove, some die, and one counts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from cachefiles_session import Netfile, Session, bound  # type: ignore[import-not-found]
from hypothesis import given
from hypothesis import strategies as st

from fscache_cachefiles.ledger import NOTHING, Ledger, Weight
from fscache_core.errors import NoSpaceError
from fscache_core.folio import page_count

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

N_THINGS = 4
N_USERS = 3
#: What may be done to a thing, in this order; it may also be given back instead of being made.
STEPS = ("charge", "make", "settle", "mark", "remove", "take off")


@dataclass
class Thing:
    """Something to be stored by one of the users, and removed by it or another."""

    weight: Weight
    n_steps: int = 0
    user: int = 0
    removal: AbstractContextManager[None] | None = None

    @property
    def exists(self) -> bool:
        return STEPS.index("make") < self.n_steps <= STEPS.index("remove")


@dataclass
class Scene:
    """Users of one account, what they store, and a count that sees each thing at a moment of its own."""

    path: Path
    #: What is done before the count comes to the next thing.
    during: list[list[tuple[int, int]]] = field(default_factory=lambda: [[] for _ in range(N_THINGS)])
    things: list[Thing] = field(default_factory=list)
    users: list[Ledger] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.things = [Thing(Weight(1, 1000 << number)) for number in range(N_THINGS)]
        self.users = [self.come() for _ in range(N_USERS)]

    def come(self) -> Ledger:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT)
        ledger = Ledger(descriptor, None, None, self.count)
        ledger.open()
        return ledger

    def count(self) -> Weight:
        found = NOTHING
        for thing, actions in zip(self.things, self.during, strict=True):
            self.act(actions)
            if thing.exists:
                found += thing.weight
        return found

    def act(self, actions: list[tuple[int, int]]) -> None:
        for number, user in actions:
            self.step(self.things[number], user)

    def step(self, thing: Thing, user: int) -> None:
        ledger = self.users[thing.user if thing.n_steps in (1, 2, 5) else user]
        match STEPS[thing.n_steps]:
            case "charge":
                ledger.charge(thing.weight)
                thing.user = user
            case "settle":
                ledger.settle(thing.weight)
            case "mark":
                thing.user = user
                thing.removal = ledger.removal(thing.weight)
                thing.removal.__enter__()
            case "take off":
                assert thing.removal is not None
                thing.removal.__exit__(None, None, None)
        thing.n_steps = (thing.n_steps + 1) % len(STEPS)

    @property
    def truth(self) -> Weight:
        return sum((thing.weight for thing in self.things if thing.exists), NOTHING)

    def leave(self, ledger: Ledger) -> None:
        os.close(ledger.descriptor)  # as a crash would


@pytest.fixture
def account(tmp_path: Path) -> Path:
    return tmp_path / "account"


actions = st.lists(st.tuples(st.integers(0, N_THINGS - 1), st.integers(0, N_USERS - 1)), max_size=12)


@given(before=actions, during=st.lists(actions, min_size=N_THINGS, max_size=N_THINGS), after=actions)
def test_whoever_counts_the_account_never_falls_below_what_is_stored(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[int, int]],
    during: list[list[tuple[int, int]]],
    after: list[tuple[int, int]],
) -> None:
    scene = Scene(tmp_path_factory.mktemp("ledger") / "account")

    def holds() -> None:
        usage, truth = counter.usage(), scene.truth
        assert usage.n_files >= truth.n_files
        assert usage.n_bytes >= truth.n_bytes

    counter = scene.come()
    try:
        scene.act(before)
        scene.during = during
        counter.recount()
        holds()
        for action in after:
            scene.act([action])
            holds()
        for thing in scene.things:  # everybody comes to an end
            while thing.n_steps not in (0, 3):
                scene.step(thing, 0)
        holds()
        scene.during = [[] for _ in range(N_THINGS)]
        counter.recount()
        assert counter.usage() == scene.truth, "with nothing on its way a count is exact"
    finally:
        for ledger in (*scene.users, counter):
            scene.leave(ledger)


def test_what_was_given_back_is_not_there(account: Path) -> None:
    scene = Scene(account)
    weight = Weight(1, 4096)
    scene.users[0].charge(weight)
    assert scene.users[1].usage() == weight
    scene.users[0].give_back(weight)
    assert scene.users[1].usage() == NOTHING
    assert scene.users[1].recount() == NOTHING


def test_a_removal_that_fails_takes_nothing_off(account: Path) -> None:
    scene = Scene(account)
    scene.act([(0, 0)] * 3)
    with pytest.raises(FileNotFoundError), scene.users[1].removal(scene.things[0].weight):
        raise FileNotFoundError
    assert scene.users[1].usage() == scene.truth == scene.things[0].weight
    assert scene.users[0].recount() == NOTHING


def test_what_the_dead_had_on_its_way_is_counted_out(account: Path) -> None:
    scene = Scene(account)
    weight = Weight(1, 4096)
    scene.users[0].charge(weight)
    assert scene.users[1].recount() == NOTHING, "it may come yet"
    scene.leave(scene.users[0])
    assert scene.users[1].recount() == weight
    assert scene.users[1].usage() == NOTHING
    scene.users[0] = scene.come()  # takes the slot of the one that died
    assert scene.users[1].recount() == NOTHING


def test_the_account_is_put_right_also_upwards(account: Path) -> None:
    scene = Scene(account)
    scene.things[1].n_steps = STEPS.index("mark")  # as if copied there by hand
    assert scene.users[0].recount() == NOTHING - scene.things[1].weight
    assert scene.users[2].usage() == scene.truth


def test_many_may_have_the_account_open(account: Path) -> None:
    scene = Scene(account)
    weight = Weight(1, 4096)
    many = [scene.come() for _ in range(200)]
    for ledger in many:
        ledger.charge(weight)
    assert scene.users[0].recount() == NOTHING
    assert scene.users[0].usage() == Weight(200, 200 * 4096)
    for ledger in many:
        scene.leave(ledger)
    assert scene.users[0].recount() == Weight(200, 200 * 4096)


def test_a_ceiling_counts_what_is_on_its_way(account: Path) -> None:
    scene = Scene(account)
    scene.users[0].charge(Weight(1, 4096))
    scene.users[1].max_bytes = 8191
    scene.users[1].recount()
    with pytest.raises(NoSpaceError):
        scene.users[1].charge(Weight(1, 4096))


@pytest.mark.parametrize("size", [60_000, 300_000])
async def test_files_that_are_being_filled_stay_in_the_account_when_another_process_counts(
    tmp_path: Path, size: int
) -> None:
    def usage(session: Session) -> Weight:
        held: Weight = session.backend.usage()
        return held

    async with bound(tmp_path) as one, bound(tmp_path) as other:
        cookies = [await one.open(Netfile(f"file{number}", size)) for number in range(5)]
        for cookie in cookies:
            await one.fill(cookie, 0, 1)
        before = usage(other)
        assert other.backend.recount() == NOTHING
        assert usage(other) == before
        for cookie in cookies:
            await one.read(cookie)
        whole = usage(other)
        assert other.backend.recount() == NOTHING
        assert usage(other) == whole
        assert whole.n_bytes >= 5 * page_count(size) * 4096
        for cookie in cookies[:3]:
            await one.close(cookie, retire=True)
        assert other.backend.recount() == NOTHING
        await one.fill(await one.open(Netfile("more", size)), 0, 1)
        assert other.backend.recount() == NOTHING
    async with bound(tmp_path) as session:
        assert session.backend.recount() == NOTHING
