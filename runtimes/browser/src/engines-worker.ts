// The worker of a guest's engines, where the guest cannot be suspended.
import type { Accelerator } from "./accelerators.js";
import { server } from "./blocking.js";
import { ENGINES } from "./engines.js";
import { Service } from "./service.js";

self.onmessage = ({ data: { port, folder, accelerator } }: MessageEvent<{ port: MessagePort; folder: string; accelerator: Accelerator | undefined }>) => {
  const answer = server(new Service(ENGINES, folder, accelerator));
  port.onmessage = ({ data }) => void answer(data);
};
