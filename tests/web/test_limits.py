"""Who gives way where there are too many connections."""

from __future__ import annotations

from contextlib import ExitStack

from edgecls.web.limits import Connections, Limits, Viewers, client_of


class Held:
    """A connection as the registry sees it."""

    def __init__(self, client_key: str, since_s: float, at_work: bool = False):
        self.client_key, self.since_s, self.at_work, self.patience_s = client_key, since_s, at_work, 10.0
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True


def test_the_client_with_the_most_connections_gives_one_up_its_longest_idle() -> None:
    registry = Connections(Limits(connections=4, connections_per_client=3))
    greedy = [Held("a", 2.0, at_work=True), Held("a", 9.0), Held("a", 5.0)]
    modest = [Held("b", 1.0), Held("c", 0.0)]
    for each in (*greedy, *modest):
        registry.add(each)
    assert [each.dropped for each in (*greedy, *modest)] == [False, False, True, False, False]
    registry.sweep(10.5)
    assert [each.dropped for each in (*greedy, *modest)] == [False, False, True, False, True]


def test_a_client_is_an_address_or_a_network_of_ipv6() -> None:
    assert client_of(("10.0.0.1", 5)) == client_of(("::ffff:10.0.0.1", 7, 0, 0)) == "10.0.0.1"
    assert client_of(("2001:db8::1", 5)) == client_of(("2001:db8::ffff:1", 5)) != client_of(("2001:db8:0:1::1", 5))
    assert client_of(("fe80::1%eth0", 5)) == "fe80::/64"
    assert client_of(None) == client_of(("", 0)) == client_of(("testclient", 1)) == ""


def test_places_are_given_back() -> None:
    viewers = Viewers(Limits(streams=2, streams_per_client=1))
    with ExitStack() as stack:
        assert [stack.enter_context(viewers.slot(client)) for client in "aabc"] == [True, False, True, False]
    with viewers.slot("a") as again, viewers.slot("c") as other:
        assert again
        assert other
