import pytest

from serving.errors import Unavailable
from serving.models.places import Places, TurnQueue


def test_a_client_gets_half_and_all_together_no_more_than_there_are():
    places = Places(5)
    for _ in range(3):
        places.take("greedy")
    with pytest.raises(Unavailable, match="3 requests of client 'greedy'"):
        places.take("greedy")
    places.take("other")
    places.take("")
    with pytest.raises(Unavailable, match="5 requests are waiting or running"):
        places.take("other")
    places.free("greedy")
    places.take("greedy")


def test_the_nameless_share_what_there_is_without_a_limit_of_their_own():
    places = Places(4)
    for _ in range(4):
        places.take("")
    with pytest.raises(Unavailable, match="4 requests are waiting"):
        places.take("")


def test_clients_take_turns_and_each_is_served_in_order():
    queue = TurnQueue()
    for client, item in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("a", 5), ("b", 6), ("c", 7)]:
        queue.put(client, item)
    assert [queue.get() for _ in range(7)] == [1, 4, 7, 2, 6, 3, 5]
    with pytest.raises(LookupError):
        queue.get()
