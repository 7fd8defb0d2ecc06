"""Who asked for it: jobs, and the processes that execute them.

messages.py   what goes between the process that serves and one that works
worker.py     the process that works: executes runs, holds models and third-party packs
remote.py     the other end: an executor whose runs happen in a worker
"""
