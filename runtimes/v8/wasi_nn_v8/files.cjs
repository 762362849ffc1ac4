// The files and directories of WASI preview 1 and of its snapshot 0, for one guest. Node.js's own WASI
// (``system`` below) serves the standard streams only: its files are not safe against symbolic links.
// Answers to a guest's mistakes are wasmtime's where the specification leaves a choice.
"use strict";
const fs = require("node:fs");
const { ERRNO, answering, fail } = require("./errno.cjs");
const { at, openPreopen, walk } = require("./places.cjs");

const C = fs.constants;
const FOLLOW = 1;
const CREATE = 1, DIRECTORY = 2, EXCLUSIVE = 4, TRUNCATE = 8;
const APPEND = 1, DSYNC = 2, NONBLOCK = 4, RSYNC = 8, SYNC = 16;
const ATIM = 1, ATIM_NOW = 2, MTIM = 4, MTIM_NOW = 8;
const READ = 1n << 1n, WRITE = 1n << 6n;
const FILE_RIGHTS = 0x8e001ffn, DIRECTORY_RIGHTS = 0x7b7fe00n;
const MAX_VECTORS = 1024;
// Node.js reads and writes at most 2 GiB at once.
const MAX_PIECE = 1 << 30;
const TYPES = new Map([[C.S_IFBLK, 1], [C.S_IFCHR, 2], [C.S_IFDIR, 3], [C.S_IFREG, 4],
  [C.S_IFSOCK, 6], [C.S_IFLNK, 7]]);

const typeOf = (stat) => TYPES.get(Number(stat.mode) & C.S_IFMT) ?? 0;
const bigint = { bigint: true };

// A number of 64 bits that a guest passes. Those that no file reaches are refused.
function whole(number) {
  if (number < 0n || number > Number.MAX_SAFE_INTEGER) fail("EINVAL");
  return Number(number);
}

class Files {
  // ``memory`` gives the guest's memory. At most ``most`` descriptors can be open.
  constructor(most, memory) {
    this.most = most;
    // How often that was more than it may.
    this.refused = 0;
    this.memory = memory;
    // By number: {stream} is a standard stream, {directory} and {file} are open here.
    this.table = new Map([0, 1, 2].map((stream) => [stream, { stream }]));
  }

  preopen(name, path, writable) {
    this.add({ directory: openPreopen(path), name: Buffer.from(name), writable });
  }

  add(entry) {
    let number = 0;
    while (this.table.has(number)) number++;
    this.table.set(number, entry);
    return number;
  }

  entry(number) {
    return this.table.get(number >>> 0) ?? fail("EBADF");
  }

  file(number) {
    const entry = this.entry(number);
    return entry.file === undefined ? fail("EBADF") : entry;
  }

  directory(number, writes = false) {
    const entry = this.entry(number);
    if (entry.file !== undefined) fail("ENOTDIR");
    if (entry.directory === undefined) fail("EBADF");
    if (writes && !entry.writable) fail("EPERM");
    return entry;
  }

  bytes(pointer, length) {
    const { buffer } = this.memory();
    if ((pointer >>> 0) + (length >>> 0) > buffer.byteLength) fail("EFAULT");
    return new Uint8Array(buffer, pointer >>> 0, length >>> 0);
  }

  view(pointer, length) {
    const { buffer, byteOffset } = this.bytes(pointer, length);
    return new DataView(buffer, byteOffset, length);
  }

  put(pointer, number) {
    this.view(pointer, 4).setUint32(0, number, true);
  }

  text(pointer, length) {
    return Buffer.from(this.bytes(pointer, length)).toString("latin1");
  }

  path(pointer, length) {
    return (length >>> 0) > 4096 ? fail("ENAMETOOLONG") : this.text(pointer, length);
  }

  // What ``use`` makes of the place of a path in a directory.
  walk(entry, pointer, length, how, use) {
    return walk(entry.directory, this.path(pointer, length), how, use);
  }

  vectors(pointer, count) {
    if (count >>> 0 > MAX_VECTORS) fail("EINVAL");
    const view = this.view(pointer, 8 * count), found = [];
    for (let index = 0, left = MAX_PIECE; index < count && left; index++) {
      const length = view.getUint32(8 * index + 4, true);
      const bytes = this.bytes(view.getUint32(8 * index, true), length);
      if (length) found.push(bytes.subarray(0, left));
      left -= Math.min(left, length);
    }
    return found;
  }

  stat(pointer, stat, unstable) {
    const view = this.view(pointer, unstable ? 56 : 64);
    view.setBigUint64(0, stat.dev, true);
    view.setBigUint64(8, stat.ino, true);
    view.setBigUint64(16, BigInt(typeOf(stat)), true);
    if (unstable) view.setUint32(20, Number(stat.nlink), true);
    else view.setBigUint64(24, stat.nlink, true);
    [stat.size, stat.atimeNs, stat.mtimeNs, stat.ctimeNs].forEach((value, index) =>
      view.setBigUint64((unstable ? 24 : 32) + 8 * index, value, true));
  }

  // The seconds that both times of a file shall have.
  times(stat, atim, mtim, flags) {
    if ((flags & ATIM && flags & ATIM_NOW) || (flags & MTIM && flags & MTIM_NOW)) fail("EINVAL");
    const now = Date.now() / 1000;
    const choose = (given, isGiven, isNow, old) => isNow ? now
      : Number(isGiven ? BigInt.asUintN(64, given) : old) / 1e9;
    return [choose(atim, flags & ATIM, flags & ATIM_NOW, stat.atimeNs),
      choose(mtim, flags & MTIM, flags & MTIM_NOW, stat.mtimeNs)];
  }

  open(entry, pointer, length, follow, oflags, rights, flags) {
    if (this.table.size >= this.most) {
      this.refused++;
      fail("EMFILE");
    }
    const reads = rights & READ, changes = oflags & TRUNCATE || rights & WRITE;
    if ((changes || oflags & CREATE) && !entry.writable) fail("EPERM");
    if (oflags & DIRECTORY && oflags & (CREATE | EXCLUSIVE | TRUNCATE)) fail("EINVAL");
    const mode = (changes ? (reads ? C.O_RDWR : C.O_WRONLY) : C.O_RDONLY)
      | (oflags & CREATE && C.O_CREAT) | (oflags & DIRECTORY && C.O_DIRECTORY)
      | (oflags & EXCLUSIVE && C.O_EXCL) | (oflags & TRUNCATE && C.O_TRUNC)
      | (flags & DSYNC && C.O_DSYNC) | (flags & (SYNC | RSYNC) && C.O_SYNC)
      | (flags & NONBLOCK && C.O_NONBLOCK) | (flags & APPEND && C.O_APPEND)
      | C.O_NOFOLLOW | C.O_NOCTTY;
    const how = { follow: follow && !(oflags & EXCLUSIVE && oflags & CREATE) };
    return this.walk(entry, pointer, length, how, (place) => {
      const opened = fs.openSync(place, mode, 0o666);
      const type = typeOf(fs.fstatSync(opened));
      const { writable } = entry;
      return this.add(type === 3 ? { directory: opened, writable }
        : { file: opened, writable, type, mode, flags, position: 0 });
    });
  }

  // Read or write where ``offset`` says, or where the file is.
  move(call, number, pointer, count, out, offset) {
    const entry = this.file(number), seeks = entry.type === 4;
    if (offset !== undefined && !seeks) fail("ESPIPE");
    const vectors = this.vectors(pointer, count);
    const place = seeks ? (offset === undefined ? entry.position : whole(offset)) : null;
    const moved = vectors.length ? call(entry.file, vectors, place) : 0;
    if (offset === undefined) {
      const appended = call === fs.writevSync && entry.flags & APPEND;
      entry.position = appended ? fs.fstatSync(entry.file).size : entry.position + moved;
    }
    this.put(out, moved);
  }

  seek(number, offset, whence, out) {
    const entry = this.file(number);
    if (entry.type !== 4) fail("ESPIPE");
    const from = { set: 0, current: entry.position, end: fs.fstatSync(entry.file).size }[whence];
    if (from === undefined) fail("EINVAL");
    entry.position = whole(BigInt(from) + offset);
    this.view(out, 8).setBigUint64(0, BigInt(entry.position), true);
  }

  // The flags of an open file cannot be changed from here, so it is opened again.
  setFlags(number, flags) {
    const entry = this.file(number);
    if (flags & (DSYNC | RSYNC | SYNC)) fail("EINVAL");
    const kept = entry.mode & ~(C.O_APPEND | C.O_NONBLOCK | C.O_NOFOLLOW | C.O_CREAT | C.O_EXCL
      | C.O_TRUNC);
    entry.mode = kept | (flags & APPEND && C.O_APPEND) | (flags & NONBLOCK && C.O_NONBLOCK);
    const again = fs.openSync(`/proc/self/fd/${entry.file}`, entry.mode);
    fs.closeSync(entry.file);
    Object.assign(entry, { file: again, flags: (entry.flags & (DSYNC | RSYNC | SYNC)) | flags });
  }

  list(number, pointer, length, cookie, out) {
    const entry = this.directory(number);
    if (cookie === 0n || !entry.names) {
      const names = fs.readdirSync(at(entry.directory, "."), "latin1");
      entry.names = [".", "..", ...names];
    }
    const target = this.bytes(pointer, length);
    let used = 0;
    const add = (bytes) => {
      target.set(bytes.subarray(0, target.length - used), used);
      used = Math.min(target.length, used + bytes.length);
    };
    for (let next = whole(cookie); next < entry.names.length && used < target.length;) {
      const name = entry.names[next++];
      // Nothing outside is looked at, not even for "..".
      const stat = fs.lstatSync(at(entry.directory, name === ".." ? "." : name),
        { ...bigint, throwIfNoEntry: false });
      const head = Buffer.alloc(24);
      head.writeBigUInt64LE(BigInt(next), 0);
      head.writeBigUInt64LE(stat?.ino ?? 0n, 8);
      head.writeUInt32LE(name.length, 16);
      head.writeUInt8(stat ? typeOf(stat) : 0, 20);
      add(head);
      add(Buffer.from(name, "latin1"));
    }
    this.put(out, used);
  }

  status(number, out) {
    const entry = this.entry(number), view = this.view(out, 24);
    let type = 3, rights = DIRECTORY_RIGHTS, inherited = DIRECTORY_RIGHTS | FILE_RIGHTS;
    if (entry.file !== undefined) {
      const access = entry.mode & (C.O_RDWR | C.O_WRONLY);
      rights = FILE_RIGHTS & ~(access === C.O_RDONLY ? WRITE : 0n)
        & ~(access === C.O_WRONLY ? READ : 0n);
      [type, inherited] = [entry.type, rights];
    }
    view.setBigUint64(0, BigInt(type), true);
    view.setUint16(2, entry.flags ?? 0, true);
    view.setBigUint64(8, rights, true);
    view.setBigUint64(16, inherited, true);
  }

  renumber(from, to) {
    const entry = this.entry(from);
    this.entry(to);
    if (from >>> 0 === to >>> 0) return;
    this.table.delete(from >>> 0);
    this.close(this.table.get(to >>> 0));
    this.table.set(to >>> 0, entry);
  }

  close({ file, directory }) {
    // (Nothing else uses a standard stream, which ends with the process.)
    if ((file ?? directory) !== undefined) fs.closeSync(file ?? directory);
  }

  // Node.js's own function waits for streams and clocks. Files are ready at once.
  poll(system, unstable, subscriptions, events, count, out) {
    const size = unstable ? 56 : 48, made = [], streams = [];
    const view = this.view(subscriptions, size * (count >>> 0));
    for (let start = 0; start < view.byteLength; start += size) {
      const type = view.getUint8(start + 8);
      if (type !== 1 && type !== 2) continue;
      const number = view.getUint32(start + 16, true), entry = this.table.get(number);
      if (entry?.stream !== undefined) streams.push([start + 16, number, entry.stream]);
      else {
        const errno = entry?.file === undefined ? ERRNO.EBADF : 0;
        made.push([view.getBigUint64(start, true), errno, type]);
      }
    }
    if (!made.length) {
      // It knows the streams by their first numbers.
      for (const [start, , stream] of streams) view.setUint32(start, stream, true);
      try {
        return system.poll_oneoff(subscriptions, events, count, out);
      } finally {
        for (const [start, number] of streams) view.setUint32(start, number, true);
      }
    }
    const target = this.view(events, 32 * made.length);
    made.forEach(([userdata, errno, type], index) => {
      target.setBigUint64(32 * index, userdata, true);
      target.setBigUint64(32 * index + 8, BigInt(errno | type << 16), true);
      target.setBigUint64(32 * index + 16, 1n, true);
      target.setBigUint64(32 * index + 24, 0n, true);
    });
    this.put(out, made.length);
    return 0;
  }

  // The functions of one WASI module.
  imports(system, unstable) {
    const whences = unstable ? ["current", "end", "set"] : ["set", "current", "end"];
    const made = { follow: false, create: true };
    const own = {
      fd_advise: (fd, offset, length, advice) => { this.file(fd); if (advice >>> 0 > 5) fail("EINVAL"); },
      fd_allocate: (fd) => { this.file(fd); fail("ENOTSUP"); },
      fd_close: (fd) => { this.close(this.entry(fd)); this.table.delete(fd >>> 0); },
      fd_datasync: (fd) => fs.fdatasyncSync(this.file(fd).file),
      fd_fdstat_get: (fd, out) => this.status(fd, out),
      fd_fdstat_set_flags: (fd, flags) => this.setFlags(fd, flags),
      fd_fdstat_set_rights: (fd) => { this.entry(fd); fail("ENOTSUP"); },
      fd_filestat_get: (fd, out) => {
        const { file, directory } = this.entry(fd);
        this.stat(out, fs.fstatSync(file ?? directory, bigint), unstable);
      },
      fd_filestat_set_size: (fd, size) => {
        const entry = this.file(fd);
        if (!(entry.mode & (C.O_WRONLY | C.O_RDWR))) fail("EBADF");
        fs.ftruncateSync(entry.file, whole(size));
      },
      fd_filestat_set_times: (fd, atim, mtim, flags) => {
        const { file, directory, writable } = this.entry(fd);
        if (!writable) fail("EPERM");
        const times = this.times(fs.fstatSync(file ?? directory, bigint), atim, mtim, flags);
        if (file === undefined) fs.utimesSync(at(directory, "."), ...times);
        else fs.futimesSync(file, ...times);
      },
      fd_pread: (fd, vectors, count, offset, out) =>
        this.move(fs.readvSync, fd, vectors, count, out, offset),
      fd_prestat_dir_name: (fd, pointer, length) => {
        const { name } = this.directory(fd);
        if (!name) fail("ENOTDIR");
        if (name.length > length >>> 0) fail("ENAMETOOLONG");
        this.bytes(pointer, name.length).set(name);
      },
      fd_prestat_get: (fd, out) => {
        const { name } = this.entry(fd);
        if (!name) fail("EBADF");
        this.put(out, 0);
        this.put(out + 4, name.length);
      },
      fd_pwrite: (fd, vectors, count, offset, out) =>
        this.move(fs.writevSync, fd, vectors, count, out, offset),
      fd_read: (fd, vectors, count, out) => this.move(fs.readvSync, fd, vectors, count, out),
      fd_readdir: (fd, pointer, length, cookie, out) =>
        this.list(fd, pointer, length, cookie, out),
      fd_renumber: (from, to) => this.renumber(from, to),
      fd_seek: (fd, offset, whence, out) => this.seek(fd, offset, whences[whence], out),
      fd_sync: (fd) => fs.fsyncSync(this.file(fd).file),
      fd_tell: (fd, out) => this.seek(fd, 0n, "current", out),
      fd_write: (fd, vectors, count, out) => this.move(fs.writevSync, fd, vectors, count, out),
      path_create_directory: (fd, path, length) =>
        this.walk(this.directory(fd, true), path, length, made, (place) => { fs.mkdirSync(place); }),
      path_filestat_get: (fd, flags, path, length, out) =>
        this.walk(this.directory(fd), path, length, { follow: flags & FOLLOW }, (place) =>
          this.stat(out, fs.lstatSync(place, bigint), unstable)),
      path_filestat_set_times: (fd, flags, path, length, atim, mtim, which) =>
        this.walk(this.directory(fd, true), path, length, { follow: flags & FOLLOW }, (place) =>
          fs.lutimesSync(place, ...this.times(fs.lstatSync(place, bigint), atim, mtim, which))),
      path_link: (fd, flags, path, length, toFd, toPath, toLength) => {
        if (flags & FOLLOW) fail("EINVAL");
        const to = this.directory(toFd, true);
        this.walk(this.directory(fd, true), path, length, {}, (place) =>
          this.walk(to, toPath, toLength, made, (target) => fs.linkSync(place, target)));
      },
      path_open: (fd, flags, path, length, oflags, rights, inherited, fdflags, out) =>
        this.put(out, this.open(this.directory(fd), path, length, flags & FOLLOW, oflags, rights,
          fdflags)),
      path_readlink: (fd, path, length, pointer, room, out) =>
        this.walk(this.directory(fd), path, length, {}, (place) => {
          const target = fs.readlinkSync(place, "buffer");
          // Where the host's files are is the host's affair.
          if (target[0] === 0x2f) fail("EPERM");
          const part = target.subarray(0, room >>> 0);
          this.bytes(pointer, part.length).set(part);
          this.put(out, part.length);
        }),
      path_remove_directory: (fd, path, length) =>
        this.walk(this.directory(fd, true), path, length, made, (place) => fs.rmdirSync(place)),
      path_rename: (fd, path, length, toFd, toPath, toLength) => {
        const to = this.directory(toFd, true);
        this.walk(this.directory(fd, true), path, length, made, (place) =>
          this.walk(to, toPath, toLength, made, (target) => fs.renameSync(place, target)));
      },
      path_symlink: (target, length, fd, path, pathLength) => {
        const leads = this.path(target, length);
        if (leads.startsWith("/")) fail("EPERM");
        if (!leads) fail("ENOENT");
        if (leads.includes("\0")) fail("EINVAL");
        this.walk(this.directory(fd, true), path, pathLength, made, (place) =>
          fs.symlinkSync(Buffer.from(leads, "latin1"), place));
      },
      path_unlink_file: (fd, path, length) =>
        this.walk(this.directory(fd, true), path, length, made, (place) => fs.unlinkSync(place)),
      sock_accept: (fd) => { this.entry(fd); fail("ENOTSOCK"); },
      sock_recv: (fd) => { this.entry(fd); fail("ENOTSOCK"); },
      sock_send: (fd) => { this.entry(fd); fail("ENOTSOCK"); },
      sock_shutdown: (fd) => { this.entry(fd); fail("ENOTSOCK"); },
    };
    const functions = {
      poll_oneoff: answering((...values) => this.poll(system, unstable, ...values)) };
    for (const [name, work] of Object.entries(own)) {
      if (!(name in system)) continue;
      const answer = answering(work), streamed = /^(fd|sock)_/.test(name) && !LOCAL.has(name);
      functions[name] = (fd, ...rest) => {
        const stream = streamed ? this.table.get(fd >>> 0)?.stream : undefined;
        return stream === undefined ? answer(fd, ...rest) : system[name](stream, ...rest);
      };
    }
    return functions;
  }
}

// These are about the table of descriptors.
const LOCAL = new Set(["fd_close", "fd_renumber"]);

module.exports = { Files };
