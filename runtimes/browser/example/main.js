import { runGuest } from "wasi-nn-browser";

const [guest, files, args, deadline, bridge, run, status, out] = ["guest", "files", "args", "deadline", "bridge", "run", "status", "out"].map((id) => document.getElementById(id));
const bytes = async (file) => new Uint8Array(await file.arrayBuffer());
const print = (text) => { out.textContent += text; };

run.onclick = async () => {
  out.textContent = "";
  status.textContent = "running";
  try {
    const ended = await runGuest({
      module: await bytes(guest.files[0]),
      args: ["guest", ...args.value.split(" ").filter(Boolean)],
      files: Object.fromEntries(await Promise.all([...files.files].map(async (file) => [file.name, await bytes(file)]))),
      bridge: bridge.value,
      limits: { deadline: deadline.valueAsNumber },
      onStdout: print, onStderr: print, onLog: (text) => print(`${text}\n`),
    });
    status.textContent = `exit ${ended.exitCode} (${ended.bridge})`;
  } catch (error) {
    status.textContent = error.message;
  }
};
