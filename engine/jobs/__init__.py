"""Who asked for it: jobs, and the processes that execute them.

messages.py   what goes between the process that serves and one that works
worker.py     the process that works: executes runs, holds models and third-party packs
process.py    the other end of one worker: started, talked to, known to be dead when it is
watch.py      what is known of a run from its events: who is at work, when it was last heard of. Pure
underway.py   one run that a worker is at, and its end
remote.py     an executor whose runs happen in a worker, which is replaced when it dies
"""
