"""Rate limits: a moving window for each client, in memory that stays bounded."""

import threading
import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from api.rate_limit import RateLimits, RateLimitSettings, WindowStorage, address_identity


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def limits(rate: str | None, clock: Clock, **settings: int) -> RateLimits:
    return RateLimits(RateLimitSettings(rate_limit=rate, **settings), clock=clock)


def test_requests_beyond_the_limit_wait_until_the_window_moves() -> None:
    clock = Clock()
    rates = limits("3/minute", clock)
    for _ in range(3):
        assert rates.check("key 1") is None
        clock.now += 10
    retry = rates.check("key 1")
    assert retry is not None
    assert retry.seconds == 30  # the first was 30 s ago
    assert retry.message == "more than 3 requests in 60 s; try again in 30 s"
    assert rates.check("key 2") is None
    clock.now += 29.9
    assert rates.check("key 1") is not None
    clock.now += 0.1
    assert rates.check("key 1") is None
    assert rates.check("key 1") is not None


def test_waiting_for_retry_after_is_enough() -> None:
    clock = Clock()
    rates = limits("5 per 7 seconds", clock)
    for step in range(100):
        if retry := rates.check("key 1"):
            clock.now += retry.seconds
            assert rates.check("key 1") is None
        clock.now += step % 3 / 7


def test_the_headers() -> None:
    clock = Clock()
    rates = limits("2/minute", clock)
    rates.check("a")
    clock.now += 12.4
    rates.check("a")
    retry = rates.check("a")
    assert retry is not None
    assert retry.headers == {
        "Retry-After": "48",
        "RateLimit-Policy": '"requests";q=2;w=60',
        "RateLimit": '"requests";r=0;t=48',
        "RateLimit-Limit": "2",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "48",
    }


def test_several_limits_apply_together() -> None:
    clock = Clock()
    rates = limits("2/second, 3/minute", clock)
    assert [rates.check("a") for _ in range(2)] == [None, None]
    retry = rates.check("a")
    assert retry is not None
    assert retry.seconds == 1
    clock.now += 1
    assert rates.check("a") is None
    retry = rates.check("a")
    assert retry is not None
    assert retry.headers["RateLimit-Limit"] == "3"
    assert retry.seconds == 59


def test_refused_requests_do_not_make_the_wait_longer() -> None:
    clock = Clock()
    rates = limits("1/minute", clock)
    rates.check("a")
    for _ in range(1_000):
        clock.now += 0.05
        assert rates.check("a") is not None
    clock.now += 10.001
    assert rates.check("a") is None


@pytest.mark.parametrize("rate", [None, "", "  "])
def test_no_limit(rate: str | None) -> None:
    rates = limits(rate, Clock())
    assert not rates
    assert all(rates.check("a") is None for _ in range(1_000))


@pytest.mark.parametrize(
    "rate", ["60", "0/minute", "x/minute", "60/fortnight", "-1/minute", "1e9/day", "100001/day", "5/999999999 days"]
)
def test_settings_that_are_refused(rate: str) -> None:
    with pytest.raises(ValidationError, match="give limits"):
        RateLimitSettings(rate_limit=rate)


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,5} ?(/|per) ?[0-9]{0,3} ?(second|minute|hour|day)s?", fullmatch=True))
def test_any_setting_is_accepted_or_refused(rate: str) -> None:
    def outcome() -> bool:
        try:
            return RateLimits(RateLimitSettings(rate_limit=rate)).check("a") is None
        except ValidationError:
            return True

    assert outcome()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=80), st.integers(1, 5))
def test_never_more_than_the_limit_in_any_window(asked: list[tuple[int, int]], amount: int) -> None:
    clock = Clock()
    rates = limits(f"{amount}/minute", clock)
    answered: dict[int, deque[float]] = {}
    for client, wait in asked:
        clock.now += wait
        within = [at for at in answered.get(client, ()) if at > clock.now - 60]
        taken = rates.check(str(client)) is None
        assert taken == (len(within) < amount)
        if taken:
            answered.setdefault(client, deque()).append(clock.now)


def test_clients_are_forgotten_when_their_window_has_passed() -> None:
    clock = Clock()
    windows = WindowStorage(1_000, clock=clock)
    for client in range(500):
        windows.acquire_entry(str(client), 5, 60)
    clock.now += 60
    windows.acquire_entry("late", 5, 60)
    assert len(windows) == 1


def test_the_quietest_client_makes_room() -> None:
    rates = limits("2/day", Clock(), max_clients=2)
    for client in "abac":
        assert rates.check(client) is None
    assert rates.check("a") is not None
    assert rates.check("c") is None
    assert rates.check("b") is None  # b was forgotten and starts again; now a is forgotten


def test_expired_requests_do_not_make_clients_forgotten() -> None:
    clock = Clock()
    windows = WindowStorage(10, max_hits=20, clock=clock)
    for _ in range(1_000):
        clock.now += 30
        assert windows.acquire_entry("busy", 5, 60)
        assert windows.acquire_entry("other", 5, 60)
        assert len(windows) == 2


def test_requests_remembered_are_bounded_over_all_clients() -> None:
    clock = Clock()
    windows = WindowStorage(1_000, max_hits=50, clock=clock)
    for step in range(1_000):
        assert windows.acquire_entry(f"client {step // 20}", 20, 3_600)
        assert sum(windows.get_moving_window(f"client {client}", 20, 3_600)[1] for client in range(51)) <= 50
    assert windows.reset() <= 3
    assert windows.get_moving_window("client 49", 20, 3_600)[1] == 0


def test_many_clients_cost_no_more_than_one_and_no_thread() -> None:
    rates = RateLimits(RateLimitSettings(rate_limit="60/minute", max_clients=20_000))
    threads = threading.active_count()

    def seconds_for(prefix: str, clients: int) -> float:
        began = time.process_time()
        for number in range(5_000):
            rates.check(f"{prefix} {number % clients}")
        return time.process_time() - began

    few = min(seconds_for(f"few {again}", 100) for again in range(3))
    seconds_for("many", 5_000)
    many = min(seconds_for(f"many {again}", 5_000) for again in range(3))
    assert many < 5 * few
    assert threading.active_count() == threads


def test_threads_count_together() -> None:
    def clock() -> float:
        time.sleep(0)  # lets other threads run between the check and the count
        return time.monotonic()

    rates = RateLimits(RateLimitSettings(rate_limit="100/hour"), clock=clock)
    taken: list[bool] = []

    def ask() -> None:
        taken.extend(rates.check("a") is None for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 100


@pytest.mark.parametrize(
    ("client", "identity"),
    [
        (("192.0.2.7", 5), "address 192.0.2.7"),
        (("::ffff:192.0.2.7", 5), "address 192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 5), "address 2001:db8:1:2::"),
        (("2001:db8:1:2::9", 5), "address 2001:db8:1:2::"),
        (("fe80::1%eth0", 5), "address fe80::"),
        (("testclient", 5), "address 'testclient'"),
        (("a\nb", 5), "address 'a\\nb'"),
        (None, "address unknown"),
    ],
)
def test_identities(client: tuple[str, int] | None, identity: str) -> None:
    assert address_identity(client) == identity
