"""The signatures of WASI preview 1 (wasi_snapshot_preview1.witx; snapshot 0 has the same ones).

If a guest imports such a function with another signature, engines differ: some refuse the guest,
some run it until the call, and one makes the call anyway.
"""

from __future__ import annotations

from wasi_nn.wasm.module import Signature

__all__ = ["SIGNATURES"]

# Parameters: i is i32, l is i64. All functions except the first return an errno.
_PARAMETERS = """
proc_exit i
args_get ii               args_sizes_get ii          clock_res_get ii
clock_time_get ili        environ_get ii             environ_sizes_get ii
fd_advise illi            fd_allocate ill            fd_close i
fd_datasync i             fd_fdstat_get ii           fd_fdstat_set_flags ii
fd_fdstat_set_rights ill  fd_filestat_get ii         fd_filestat_set_size il
fd_filestat_set_times illi
fd_pread iiili            fd_prestat_dir_name iii    fd_prestat_get ii
fd_pwrite iiili           fd_read iiii               fd_readdir iiili
fd_renumber ii            fd_seek ilii               fd_sync i
fd_tell ii                fd_write iiii              path_create_directory iii
path_filestat_get iiiii   path_filestat_set_times iiiilli
path_link iiiiiii         path_open iiiiillii        path_readlink iiiiii
path_remove_directory iii path_rename iiiiii         path_symlink iiiii
path_unlink_file iii      poll_oneoff iiii           proc_raise i
random_get ii             sched_yield -              sock_accept iii
sock_recv iiiiii          sock_send iiiii            sock_shutdown ii
""".split()
_KINDS = {"i": "i32", "l": "i64"}

#: The signatures by name, for ``wasi_snapshot_preview1`` and ``wasi_unstable``.
SIGNATURES = {
    name: Signature(
        tuple(_KINDS[kind] for kind in parameters.strip("-")),
        () if name == "proc_exit" else ("i32",),
    )
    for name, parameters in zip(_PARAMETERS[::2], _PARAMETERS[1::2], strict=True)
}
