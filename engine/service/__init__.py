"""How it talks: HTTP, websockets, the editor. See ``app.py`` for how it is put together."""
