"""Third-party node packs, written for ComfyUI: found, imported in a process of their own, and their classes read as ``NodeSpec``s.

    sources.py    which packs there are, and a digest of each one's source
    load.py       imports them, in the process that runs them
    contract.py   a class with INPUT_TYPES, RETURN_TYPES, FUNCTION ... -> NodeSpec
    hooks.py      IS_CHANGED, VALIDATE_INPUTS
    inputs.py     what INPUT_TYPES says -> InputSpecs
    outputs.py    what RETURN_TYPES says -> Outputs
    returns.py    what a node's function returned -> Outputs, Expand, Blocked
    hidden.py     UNIQUE_ID, PROMPT, DYNPROMPT ...
    describe.py   a NodeSpec as plain data, for the process that does not import the pack

``docs/packs.md`` says what of the contract works.
"""
