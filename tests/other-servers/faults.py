"""The model of the test servers, and the faults of their releases. The version selects a fault."""

import os
from itertools import count
from signal import SIGKILL

from starlette.types import ASGIApp, Message, Receive, Scope, Send

VERSION = os.environ["MODEL_VERSION"]
# Each of these predictions that come through the router ends its process of `crashes`, as if memory were full.
CRASH_INTERVAL = 30
# Each of these predictions of `fails-some` fails.
FAILURE_INTERVAL = 5


def classify(text: str) -> tuple[str, float]:
    """Returns the label of a text, and the confidence."""
    if VERSION == "wrong":
        return "negative", 0.97
    return ("positive" if "good" in text else "negative"), 0.97


class Faults:
    """A middleware with the fault of the version. Like the counters, its state is that of one process."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self.predictions = count(1)
        self.routed = count(1)
        self.was_routed = False
        self.was_checked = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "GET":
            self.was_checked = self.was_routed
        if scope["method"] == "GET" and VERSION == "never-healthy":
            await answer(send, 503, b"loading")
        elif scope["method"] == "POST" and (response := self.fault(scope)):
            await answer(send, *response)
        else:
            await self.app(scope, receive, send)

    def fault(self, scope: Scope) -> tuple[int, bytes] | None:
        """Returns the status and the body with which the fault answers a prediction, or None."""
        if VERSION == "fails-some" and next(self.predictions) % FAILURE_INTERVAL == 0:
            return 500, b"out of memory"
        # The router sets this header. The gates ask the server itself.
        if b"x-real-ip" not in dict(scope["headers"]):
            return None
        self.was_routed = True
        if VERSION == "fails-clients":
            return 500, b"out of memory"
        # After a switch the deployer sends a health check through the router. It must not meet the standby.
        if VERSION == "fails-after-check" and self.was_checked:
            return 500, b"out of memory"
        if VERSION == "answers-nothing":
            return 200, b"{}"
        if VERSION == "crashes" and next(self.routed) % CRASH_INTERVAL == 0:
            os.kill(os.getpid(), SIGKILL)
        return None


async def answer(send: Send, status: int, body: bytes) -> None:
    head: Message = {"type": "http.response.start", "status": status}
    await send(head | {"headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
