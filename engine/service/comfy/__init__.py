"""ComfyUI's HTTP and websocket interface, as its clients and its editor expect it."""
