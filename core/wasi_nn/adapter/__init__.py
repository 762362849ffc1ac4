"""What runtime adapters share: how guests end, their standard streams, native libraries.

An adapter need not use any of this; it saves those that drive an engine in this process from
writing, and from getting wrong, the same things again.

- ``instance``: exit codes, exceptions of host functions and interrupts, the same for every engine
- ``streams``: standard streams for engines that take file descriptors
- ``preview1``: streams, arguments and variables for engines that have none of their own, or know
  none but the process's
- ``deferred``: start functions for engines that cannot be stopped while they instantiate
- ``bounded``: a limit on memory for engines that hold none
- ``library``: finding and calling an engine's shared library
- ``values``: the value struct that most C APIs have
- ``wasm_c_api``: the standard C API, wasm.h
"""
