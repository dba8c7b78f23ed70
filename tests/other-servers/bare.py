"""A server that answers its health check with an empty body, and whose predictions name no version."""

from faults import Faults, classify
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def alive(_: Request) -> Response:
    return Response()


async def classify_all(request: Request) -> JSONResponse:
    labels = []
    for text in (await request.json())["texts"]:
        label, score = classify(text)
        labels.append({"label": label, "score": score})
    return JSONResponse({"results": labels})


app = Faults(
    Starlette(
        routes=[
            Route("/-/alive", alive),
            Route("/v1/classify", classify_all, methods=["POST"]),
        ]
    )
)
