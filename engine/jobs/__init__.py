"""Who asked for it: jobs, and the processes that execute them.

records.py     a job as it is asked for, as it stands, and what happened in it
store.py       jobs on disk (SQLite): every change a transaction; changes.py its steps, schema.py its tables, writer.py its thread
queue.py       who is next: priority, fairness, models at hand. Pure
dispatcher.py  gives jobs to workers and sees each to its end: leases, retries, pause, cancel, pre-emption
outcome.py     what becomes of a job after an attempt. Pure; report.py what an attempt says, on its way into the store
feed.py        what happens, for whoever watches, from any number on
worker.py      the process that works: executes runs, holds models and third-party packs
process.py     the other end of one worker: started, talked to, known to be dead when it is
watch.py       what is known of a run from its events: who is at work, when it was last heard of. Pure
underway.py    one run that a worker is at, and its end
keeper.py      one worker process started when it is wanted, and anew when it died; loaded.py what it has loaded
left_over.py   workers of a service that is gone; locks.py who may be at work where
remote.py      an executor whose runs happen in a worker; gentle.py questions to it that disturb no run
messages.py    what goes between the process that serves and one that works
"""
