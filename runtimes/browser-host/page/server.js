// The server of the Python host, for a worker. A guest's call cannot wait for a promise, so requests
// are synchronous: a worker of its own may block.

function request(kind, body) {
  const call = new XMLHttpRequest();
  call.open("POST", new URL(`../guest/${tell.guest}/${kind}`, self.location.href), false);
  call.responseType = "arraybuffer";
  call.send(body);
  return call;
}

/** What the server has under a name. */
export function ask(kind) {
  const { status, response } = request(kind, "");
  if (status !== 200) throw new Error(`the host did not give ${kind}: ${status}`);
  return new Uint8Array(response);
}

/** Tells the server something, and whether it was taken. */
export function tell(kind, body) {
  return request(kind, body).status === 200;
}
