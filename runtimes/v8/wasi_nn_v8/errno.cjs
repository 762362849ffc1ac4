// The errnos of WASI. In JavaScript they are exceptions with the name in ``code``, as those of Node.js.
"use strict";

// By name, numbered from 0.
const ERRNO = Object.fromEntries(`SUCCESS 2BIG ACCES ADDRINUSE ADDRNOTAVAIL AFNOSUPPORT AGAIN ALREADY
  BADF BADMSG BUSY CANCELED CHILD CONNABORTED CONNREFUSED CONNRESET DEADLK DESTADDRREQ DOM DQUOT EXIST
  FAULT FBIG HOSTUNREACH IDRM ILSEQ INPROGRESS INTR INVAL IO ISCONN ISDIR LOOP MFILE MLINK MSGSIZE
  MULTIHOP NAMETOOLONG NETDOWN NETRESET NETUNREACH NFILE NOBUFS NODEV NOENT NOEXEC NOLCK NOLINK NOMEM
  NOMSG NOPROTOOPT NOSPC NOSYS NOTCONN NOTDIR NOTEMPTY NOTRECOVERABLE NOTSOCK NOTSUP NOTTY NXIO
  OVERFLOW OWNERDEAD PERM PIPE PROTO PROTONOSUPPORT PROTOTYPE RANGE ROFS SPIPE SRCH STALE TIMEDOUT
  TXTBSY XDEV`.split(/\s+/).map((name, number) => [`E${name}`, number]));

function fail(code) {
  throw Object.assign(new Error(code), { code });
}

// A function of WASI: its errors are errnos. Others, such as the end of the stack, are traps.
function answering(work) {
  return (...values) => {
    try {
      const errno = work(...values);
      return typeof errno === "number" ? errno : 0;
    } catch (error) {
      if (!(error?.code in ERRNO)) throw error;
      return ERRNO[error.code];
    }
  };
}

module.exports = { ERRNO, answering, fail };
