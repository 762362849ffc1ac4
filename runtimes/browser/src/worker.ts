// A guest's worker. With JSPI its engines are here too, otherwise behind the port that comes along.
import { ENGINES } from "./engines.js";
import { serveGuest, type GuestMessage } from "./serving.js";

self.onmessage = ({ data }: MessageEvent<GuestMessage>) => serveGuest(data, ENGINES, (report) => self.postMessage(report));
