// A guest's worker. With JSPI its engines are here too, otherwise behind the port that comes along.
import { client, type Port } from "./blocking.js";
import { ENGINES } from "./engines.js";
import { runHere, type Report } from "./guest.js";
import type { Order } from "./index.js";
import { Service } from "./service.js";

self.onmessage = async ({ data }: MessageEvent<{ order: Order; port: Port | undefined }>) => {
  const report = (message: Report) => self.postMessage(message);
  try {
    const service = data.port === undefined ? new Service(ENGINES, data.order.folder, data.order.accelerator) : client(data.port);
    report({ kind: "exit", ...await runHere(data.order, service, report) });
  } catch (error) {
    report({ kind: "error", text: String(error) });
  }
};
