"""What third-party node packs find where they look for ComfyUI's modules: ``folder_paths``, ``comfy.utils`` and so on.

Each module here is a thin adapter over this engine, written from the names and shapes that packs use. They are importable under their
usual top-level names only in a process that loads packs (``engine.compat.aliases``), and are the one place in ``engine`` that may import
torch: nothing else in it imports them but ``engine.packs``.
"""
