"""Workers: processes in which a backend's library runs, apart from the host.

``process`` is the host's side: it starts a worker, talks to it, and ends it. ``remote`` has the
graphs that the host sees, ``context`` their execution contexts, each in a ``seat`` of a worker.
``prepared`` starts workers from a process that has imported the library already. ``template`` runs
in that process, ``service``, ``served`` and ``asking`` in the worker. ``messages``, ``patience``,
``description``, ``steps`` and ``memory`` are what both sides share.
"""

from collections import Counter

#: The workers of this process that have ended and that nobody has ended, by backend.
deaths: Counter[str] = Counter()
