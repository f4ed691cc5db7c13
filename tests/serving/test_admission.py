"""Places for requests, and the queue in which clients take turns."""

import threading

import pytest

from reverie.errors import Unavailable
from serving.python_backend.admission import AdmissionController, FairQueue


@pytest.mark.parametrize(("greedy", "described"), [("greedy", "client 'greedy'"), ("", "callers without a name")])
def test_a_client_gets_half_and_all_together_no_more_than_there_are(greedy, described):
    places = AdmissionController(5)
    for _ in range(3):
        places.acquire(greedy)
    with pytest.raises(Unavailable, match=f"3 requests of {described} are waiting or running; at most 3 of one client"):
        places.acquire(greedy)
    places.acquire("other")
    places.acquire("third")
    with pytest.raises(Unavailable, match="5 requests are waiting or running; at most 5 may"):
        places.acquire("other")
    places.release(greedy)
    places.acquire(greedy)


def test_a_request_may_take_several_places():
    places = AdmissionController(20, 10, "continuations")
    places.acquire("greedy", 9)
    with pytest.raises(Unavailable, match="9 continuations of client 'greedy'"):
        places.acquire("greedy", 2)
    places.release("greedy", 9)
    places.acquire("greedy", 10)


def test_places_are_given_back_once_and_by_who_holds_them():
    admission = AdmissionController(10, 5)
    first = admission.reserve("client", 4)
    first.release(1)
    assert admission.taken == 3
    second = first.transfer()
    first.release()
    assert admission.taken == 3
    second.release(2)
    assert admission.taken == 1
    second.release()
    second.release()
    assert admission.taken == 0


def queued(at_once: int, *items: tuple[str, int]) -> FairQueue[int]:
    queue: FairQueue[int] = FairQueue(at_once)
    for client, item in items:
        queue.put(client, item)
    queue.close()
    return queue


def test_clients_take_turns_and_each_is_served_in_order():
    queue = queued(9, ("a", 1), ("a", 2), ("a", 3), ("b", 4), ("a", 5), ("b", 6), ("c", 7))
    assert [queue.get() for _ in range(8)] == [
        ("a", 1), ("b", 4), ("c", 7), ("a", 2), ("b", 6), ("a", 3), ("a", 5), None
    ]  # fmt: skip


def test_a_client_with_enough_in_work_waits_though_threads_are_free():
    queue = queued(2, ("a", 1), ("a", 2), ("a", 3), ("b", 4))
    assert [queue.get() for _ in range(3)] == [("a", 1), ("b", 4), ("a", 2)]
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(queue.get()), daemon=True)
    thread.start()
    assert not got
    queue.done("a")
    thread.join(10)
    assert got == [("a", 3)]


def test_what_nobody_wants_any_more_leaves_the_queue():
    queue = queued(9, ("a", 1), ("b", 2), ("a", 3))
    assert queue.drop(lambda item: item != 3) == [("a", 1), ("b", 2)]
    assert [queue.get(), queue.get()] == [("a", 3), None]
