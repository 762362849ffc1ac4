// WASI preview 1 for a guest of a Python host: streams and read-only folders that the host serves.
import { ConsoleStdout, Directory, Fd, File, PreopenDirectory, WASI, WASIProcExit, wasi as defs } from "@bjorn3/browser_wasi_shim";
import { ask, tell } from "./server.js";

const { ERRNO_FAULT, ERRNO_MFILE, ERRNO_NOSYS, ERRNO_PIPE, ERRNO_ROFS, ERRNO_SUCCESS } = defs;
/** What would change a folder: all are read-only. */
const CHANGES = ["fd_allocate", "fd_filestat_set_size", "fd_filestat_set_times", "path_create_directory",
  "path_filestat_set_times", "path_link", "path_remove_directory", "path_rename", "path_symlink", "path_unlink_file"];

class Stdin extends Fd {
  fd_fdstat_get() {
    return { ret: 0, fdstat: new defs.Fdstat(defs.FILETYPE_CHARACTER_DEVICE, 0) };
  }
  fd_read(size) {
    return { ret: ERRNO_SUCCESS, data: ask(`stdin/${size}`) };
  }
}

class Stream extends ConsoleStdout {
  constructor(name) {
    super();
    this.name = name;
  }
  fd_write(data) {
    // (The last reader may be gone.)
    return tell(this.name, data) ? { ret: ERRNO_SUCCESS, nwritten: data.length } : { ret: ERRNO_PIPE, nwritten: 0 };
  }
}

/** A file whose bytes come from the host when they are first read. */
class HostFile extends File {
  constructor(number, size) {
    super([], { readonly: true });
    this.number = number;
    this.bytes = size;
    this.held = undefined;
  }
  get data() {
    return (this.held ??= ask(`file/${this.number}`));
  }
  set data(_) {
    // (The shim's constructor sets it; nothing else writes to a file that is read-only.)
  }
  get size() {
    return BigInt(this.bytes);
  }
}

/** `tree` maps names to trees, and to [number, size] for a file. */
function contents(tree) {
  return new Map(Object.entries(tree).map(([name, one]) => [name, Array.isArray(one) ? new HostFile(...one) : new Directory(contents(one))]));
}

/** The shim, which traps or gives wrong numbers in some places, with what the host decides. */
export function wasi({ args, env, preopens, files }) {
  const own = [new Stdin(), new Stream("stdout"), new Stream("stderr")];
  const shim = new WASI(args, env, [...own, ...preopens.map(([name, tree]) => new PreopenDirectory(name, contents(tree)))], { debug: false });
  const view = () => new DataView(shim.inst.exports.memory.buffer);
  const { path_open, poll_oneoff, ...kept } = shim.wasiImport;
  const given = shim.fds.length;
  /** The shim counts characters, and the guest needs room for bytes. */
  const sizes = (texts) => (count, size) => {
    const bytes = texts.reduce((sum, text) => sum + new TextEncoder().encode(text).length + 1, 0);
    view().setUint32(count, texts.length, true);
    view().setUint32(size, bytes, true);
    return ERRNO_SUCCESS;
  };
  const functions = {
    ...kept,
    ...Object.fromEntries(CHANGES.map((name) => [name, () => ERRNO_ROFS])),
    args_sizes_get: sizes(args),
    environ_sizes_get: sizes(env),
    sched_yield: () => ERRNO_SUCCESS,
    path_open(fd, dirflags, path, length, oflags, ...rest) {
      if (oflags & (defs.OFLAGS_CREAT | defs.OFLAGS_TRUNC)) return ERRNO_ROFS;
      const open = shim.fds.slice(given).filter((one) => one !== undefined).length;
      if (open >= files) {
        tell("refused", "");
        return ERRNO_MFILE;
      }
      return path_open(fd, dirflags, path, length, oflags, ...rest);
    },
    poll_oneoff(input, output, count, events) {
      const { userdata, eventtype, clockid, timeout, flags } = defs.Subscription.read_bytes(view(), input);
      if (count === 1 && eventtype === defs.EVENTTYPE_CLOCK && !(flags & defs.SUBCLOCKFLAGS_SUBSCRIPTION_CLOCK_ABSTIME)) {
        // The shim would count the time in a loop.
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(timeout) / 1e6);
        new defs.Event(userdata, ERRNO_SUCCESS, eventtype).write_bytes(view(), output);
      } else {
        const errno = poll_oneoff(input, output, count);
        if (errno !== ERRNO_SUCCESS) return errno;
      }
      // (The shim leaves it as it was.)
      view().setUint32(events, 1, true);
      return ERRNO_SUCCESS;
    },
  };
  shim.wasiImport = Object.fromEntries(Object.entries(functions).map(([name, call]) => [name, (...numbers) => {
    try {
      return call(...numbers) ?? ERRNO_SUCCESS;
    } catch (error) {
      if (error instanceof WASIProcExit) throw error;
      // A pointer outside the memory; the shim throws texts for what it does not have.
      if (error instanceof RangeError) return ERRNO_FAULT;
      if (typeof error === "string") return ERRNO_NOSYS;
      throw error;
    }
  }]));
  return shim;
}
