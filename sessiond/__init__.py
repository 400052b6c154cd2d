"""Coding sessions managed by the machine's own init system.

The layer map. Imports point down only, and siblings never import each other;
only the composition roots (``supervisor.main`` with its ``parts``, ``daemon.main``,
``cli.main``) name concrete backends.

=============  =================================================================
``cli``        sessionctl: one module per group of verbs, rendering apart
``supervisor`` services, mirror of the init system, composition root of sessiond
``daemon``     one session's daemon: services and composition root
``client``     channel and typed API for everything that speaks to a supervisor
``discovery``  runs adapters, each in a process of its own, and watches for them
``doctor``     looks at what sessiond stands on, and says what mends it
``rpc``        generated code, codec between messages and model, status mapping
``nest``       a private systemd for machines whose PID 1 is another program
``init``       backends of the init-system port (systemd; the only users of D-Bus)
``store``      SQLite metadata (the only user of sqlite3)
``agents``     what is kept of agents on disk: specs, ends, records of their output; their launcher
``terminal``   the screen behind a terminal: emulator, keys, device queries
``adapters``   one agent program each: find, tell alive, launch, resume, read
``workspaces`` identity files in workspaces, scans and watches of their folders
``ports``      what the product asks of an init system, a store, a terminal, an agent program
``model``      what a session and an event is; the one state table
``errors``     the root error; ``config``: settings; ``paths``, ``log``, ``aio``, ``process``
=============  =================================================================
"""

__version__ = "0.1.0"
