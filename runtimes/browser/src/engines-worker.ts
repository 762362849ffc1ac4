// The worker of a guest's engines, where the guest cannot be suspended.
import { server } from "./blocking.js";
import { ENGINES } from "./engines.js";
import { Service } from "./service.js";

self.onmessage = ({ data: { port, folder } }: MessageEvent<{ port: MessagePort; folder: string }>) => {
  const answer = server(new Service(ENGINES, folder));
  port.onmessage = ({ data }) => void answer(data);
};
