"""The page that asks a browser for the token. It loads nothing, runs no script and cannot be framed."""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Final
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, Response

LARGEST_FORM: Final = 4096

_STYLE: Final = (
    "body{font:16px system-ui,sans-serif;background:#1c1c1c;color:#ddd;display:grid;place-content:center;height:100vh;margin:0}"
    "form{display:grid;gap:.8em;width:20em}input,button{font:inherit;padding:.5em}p{margin:0;color:#e99}"
)
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Mezzotint</title><style>{style}</style></head>
<body><form method="post" action="{action}"><label for="token">The token of this service</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Log in</button>{said}</form></body></html>
"""


def login_page(root: str, *, said: str = "", status: int = 401) -> Response:
    """The page; ``root`` is the path the service is mounted at, ``said`` what went wrong with the last try."""
    message = f'<p role="alert">{html.escape(said)}</p>' if said else ""
    text = _PAGE.format(style=_STYLE, action=html.escape(f"{root}/login"), said=message)
    headers = {"Content-Security-Policy": _POLICY, "X-Frame-Options": "DENY", "Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return HTMLResponse(text, status, headers=headers)


def token_of_form(body: bytes) -> str:
    """The token a posted form holds, without blanks around it; empty where it holds none."""
    try:
        form = parse_qs(body.decode("utf-8"), max_num_fields=16)
    except ValueError:
        return ""
    return form.get("token", [""])[0].strip()
