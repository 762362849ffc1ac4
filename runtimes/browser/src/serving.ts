// What the workers of a page and the threads of Node do.
import type { Accelerator } from "./accelerators.js";
import { client, server, type Port } from "./blocking.js";
import type { Engine } from "./engine.js";
import { runHere, type Report } from "./guest.js";
import type { Order } from "./running.js";
import { Service } from "./service.js";

export interface GuestMessage {
  order: Order;
  /** Where its engines are, if they are not here. */
  port: Port | undefined;
}

export interface EnginesMessage {
  port: MessagePort;
  folder: string;
  accelerator: Accelerator | undefined;
}

export async function serveGuest({ order, port }: GuestMessage, engines: Record<string, Engine>, report: (report: Report) => void): Promise<void> {
  try {
    const service = port === undefined ? new Service(engines, order.folder, order.accelerator) : client(port);
    report({ kind: "exit", ...await runHere(order, service, report) });
  } catch (error) {
    report({ kind: "error", text: String(error) });
  }
}

export function serveEngines({ port, folder, accelerator }: EnginesMessage, engines: Record<string, Engine>): void {
  const answer = server(new Service(engines, folder, accelerator));
  port.onmessage = ({ data }) => void answer(data);
}
