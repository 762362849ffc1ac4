import { runGuest } from "wasi-nn-browser";

const [guest, files, models, args, deadline, bridge, run, status, out] = ["guest", "files", "models", "args", "deadline", "bridge", "run", "status", "out"].map((id) => document.getElementById(id));
const bytes = async (file) => new Uint8Array(await file.arrayBuffer());
const stem = (name) => name.replace(/\.[^.]*$/, "");
/** The files by name, or by what `named` makes of it. */
const all = async (input, named, value) => Object.fromEntries(await Promise.all([...input.files].map(async (file) => [named(file.name), value(await bytes(file))])));
const print = (text) => { out.textContent += text; };

run.onclick = async () => {
  out.textContent = "";
  status.textContent = "running";
  try {
    const ended = await runGuest({
      module: await bytes(guest.files[0]),
      args: ["guest", ...args.value.split(" ").filter(Boolean)],
      files: await all(files, (name) => name, (data) => data),
      models: await all(models, stem, (data) => ({ data })),
      folder: "engines/",
      bridge: bridge.value,
      limits: { deadline: deadline.valueAsNumber },
      onStdout: print, onStderr: print, onLog: (text) => print(`${text}\n`),
    });
    status.textContent = `exit ${ended.exitCode} (${ended.bridge})`;
  } catch (error) {
    status.textContent = error.message;
  }
};
