"""A short stream beside many long ones from one generator: how long it took, in seconds, on stdout.

python -m tests.loadtests.many_streams ADDRESS
"""

import sys
import time

# First: it replaces blocking calls by gevent's.
import loadtests.users  # noqa: F401  # isort: skip

import gevent

from loadtests.endpoints import Caller

LONG, LONG_S = 30, 3


def main() -> None:
    """Runs against `tests.loadtests.paced_server`."""
    with Caller(sys.argv[1], timeout=60) as client:

        def stream(seconds: int) -> None:
            with client.generate("this movie", max_tokens=seconds) as pieces:
                list(pieces)

        stream(0)
        long = [gevent.spawn(stream, LONG_S) for _ in range(LONG)]
        gevent.sleep(0.5)
        began = time.perf_counter()
        stream(0)
        print(time.perf_counter() - began)
        gevent.joinall(long, raise_error=True)


if __name__ == "__main__":
    main()
