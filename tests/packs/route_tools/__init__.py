"""A pack with HTTP routes of all kinds, as packs write them."""
import asyncio
import os

from aiohttp import web
from server import PromptServer

HERE = os.path.dirname(os.path.abspath(__file__))
routes = PromptServer.instance.routes
seen = {"cookies": None, "authorization": None, "left": 0}


@routes.get("/route_tools/echo")
async def echo(request):
    query = request.rel_url.query
    seen["cookies"] = dict(request.cookies)
    return web.json_response(
        {
            "query": {name: query.getall(name) for name in query},
            "path": request.path,
            "raw": request.raw_path,
            "host": request.host,
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "cookies": dict(request.cookies),
        }
    )


@routes.post("/route_tools/json")
async def post_json(request):
    data = await request.json()
    return web.json_response({"sum": sum(data["numbers"]), "length": request.content_length}, status=201)


@routes.post("/route_tools/upload")
async def upload(request):
    post = await request.post()
    image = post.get("image")
    content = image.file.read()
    return web.json_response(
        {"name": image.filename, "type": image.content_type, "size": len(content), "sum": sum(content), "note": post.get("note")}
    )


@routes.post("/route_tools/stream")
async def stream(request):
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    await response.prepare(request)
    async for chunk in request.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response


@routes.get("/route_tools/item/{name}/{number:[0-9]+}")
async def item(request):
    return web.json_response(dict(request.match_info))


@routes.view("/route_tools/view")
class View(web.View):
    async def get(self):
        return web.Response(text="got")

    async def put(self):
        return web.Response(text="put " + await self.request.text())


@routes.get("/route_tools/raises")
async def raises(request):
    raise KeyError("nothing here")


@routes.get("/route_tools/exits")
def exits(request):
    raise SystemExit(3)


@routes.get("/route_tools/refuses")
async def refuses(request):
    raise web.HTTPForbidden(text="not for you")


@routes.get("/route_tools/nothing")
async def nothing(request):
    pass


@routes.get("/route_tools/hangs")
async def hangs(request):
    try:
        await asyncio.sleep(3600)
    finally:
        seen["left"] += 1


@routes.get("/route_tools/forever")
async def forever(request):
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(b"tick\n")
            await asyncio.sleep(0.01)
    finally:
        seen["left"] += 1


@routes.get("/route_tools/left")
async def left(request):
    return web.json_response(seen["left"])


@routes.get("/route_tools/ends")
async def ends(request):
    os._exit(7)


@routes.get("/route_tools/page")
async def page(request):
    answer = web.Response(text="<p>hello", content_type="text/html")
    answer.set_cookie("session", "stolen")
    answer.headers["Access-Control-Allow-Origin"] = "*"
    answer.headers["Connection"] = "X-Secret, keep-alive"
    answer.headers["X-Secret"] = "1"
    answer.headers["X-Kept"] = "2"
    return answer


@routes.get("/route_tools/moved")
async def moved(request):
    raise web.HTTPFound("/route_tools/echo?a=1")


@routes.get("/object_info")
async def takes_core(request):
    return web.Response(text="not core's")


@routes.get("/route_tools/bad/{")
async def bad(request):
    return web.Response()


@routes.get("/route_tools/echo")
async def second(request):
    return web.Response(text="second")


async def added(request):
    return web.Response(text="added")


PromptServer.instance.app.add_routes(
    [web.get("/api/route_tools/added", added), web.static("/route_tools/files", os.path.join(HERE, "files"))]
)


def on_prompt(posted):
    if posted.get("fail"):
        posted["prompt"] = "spoilt"
        raise ValueError("told to")
    return {**posted, "seen": True}


PromptServer.instance.add_on_prompt_handler(on_prompt)


class Counter:
    """Counts its calls in itself, and says what files there are."""

    def __init__(self):
        self.count = 0

    @classmethod
    def INPUT_TYPES(cls):
        folder = os.environ.get("ROUTE_TOOLS_CHOICES", HERE)
        return {"required": {"file": (sorted(os.listdir(folder)),), "top": ("INT", {"default": 0, "max": 2**70})}}

    RETURN_TYPES = ()
    FUNCTION = "count_up"
    OUTPUT_NODE = True

    @classmethod
    def IS_CHANGED(cls, **inputs):
        return float("nan")

    def count_up(self, file, top):
        self.count += 1
        return {"ui": {"text": [str(self.count)]}}


NODE_CLASS_MAPPINGS = {"Counter|route_tools": Counter}
NODE_DISPLAY_NAME_MAPPINGS = {}
WEB_DIRECTORY = "./web"
