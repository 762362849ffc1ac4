// The worker of a guest's engines, where the guest cannot be suspended.
import { server } from "./blocking.js";
import { onnx } from "./onnx.js";
import { Service } from "./service.js";

self.onmessage = ({ data: port }: MessageEvent<MessagePort>) => {
  const answer = server(new Service({ onnx }));
  port.onmessage = ({ data }) => void answer(data);
};
