// Where a guest's path leads, without a way out of its directory. Node.js has no openat, but on Linux
// /proc/self/fd/N/NAME is the same: the system looks NAME up in the directory that is open as N. So a
// path is walked name by name, from one open directory to the next, and the system never follows a
// symbolic link. Another process may rename directories and swap links meanwhile: each step is from
// a directory that was reached from inside.
//
// Paths and names are strings with one character for each byte, because a name may be any bytes.
"use strict";
const fs = require("node:fs");
const { fail } = require("./errno.cjs");

const { O_DIRECTORY, O_NOFOLLOW } = fs.constants;
const O_PATH = 0o10000000; // Linux; Node.js has no name for it.
const MAX_PATH = 4096, MAX_LINKS = 40;

// What a function of node:fs takes for a name in an open directory.
const at = (directory, name) => Buffer.from(`/proc/self/fd/${directory}/${name}`, "latin1");

const openDirectory = (path) => fs.openSync(path, O_PATH | O_DIRECTORY | O_NOFOLLOW);

// The target of a symbolic link, or null if it is something else, or nothing. An absolute target
// leads out, wherever it leads.
function readLink(directory, name) {
  const place = at(directory, name);
  // (An exception for each file that is not a link would cost more than all the rest.)
  if (!fs.lstatSync(place, { throwIfNoEntry: false })?.isSymbolicLink()) return null;
  let target;
  try {
    target = fs.readlinkSync(place, "latin1");
  } catch (error) {
    if (error.code === "EINVAL" || error.code === "ENOENT") return null;
    throw error;
  }
  if (target.startsWith("/")) fail("EPERM");
  return target;
}

function split(path, asDirectory) {
  const names = path.split("/").filter(Boolean);
  if (asDirectory && path.endsWith("/")) names.push(".");
  return names;
}

// Walk from the open directory ``base``, and return what ``use`` makes of the path of the last name.
// With ``follow``, a link there is followed. Without, ``create`` says that the name itself is made or
// removed: a slash behind it is for the system to judge, which follows no link for that.
function walk(base, path, { follow = false, create = false }, use) {
  if (!path) fail("ENOENT");
  if (path.length >= MAX_PATH) fail("ENAMETOOLONG");
  if (path.includes("\0")) fail("EINVAL");
  if (path.startsWith("/")) fail("EPERM");
  const opened = [];
  const here = () => opened.length ? opened[opened.length - 1] : base;
  let names = split(path, !create).reverse();
  let links = 0;
  try {
    for (;;) {
      const name = names.pop();
      const last = names.length === 0;
      if (name === "..") {
        if (!opened.length) fail("EPERM");
        fs.closeSync(opened.pop());
      }
      if (name === "." || name === "..") {
        if (last) return use(at(here(), "."));
        continue;
      }
      let target = null;
      if (!last) {
        try {
          opened.push(openDirectory(at(here(), name)));
          continue;
        } catch (error) {
          if (error.code !== "ENOTDIR") throw error;
        }
        target = readLink(here(), name) ?? fail("ENOTDIR");
      } else if (follow) {
        target = readLink(here(), name);
      }
      if (target === null) {
        return use(at(here(), create && path.endsWith("/") ? `${name}/` : name));
      }
      if (++links > MAX_LINKS) fail("ELOOP");
      names.push(...split(target, true).reverse());
    }
  } finally {
    opened.forEach((one) => fs.closeSync(one));
  }
}

// Open a directory that the operator has given.
function openPreopen(path) {
  const directory = fs.openSync(path, O_PATH | O_DIRECTORY);
  const own = fs.fstatSync(directory, { bigint: true });
  const seen = fs.statSync(at(directory, "."), { bigint: true, throwIfNoEntry: false });
  if (seen?.ino !== own.ino || seen.dev !== own.dev) fail("ENOSYS");
  return directory;
}

module.exports = { at, openPreopen, walk };
