// A WebSocket to the page's server that reconnects.

const FIRST_DELAY = 250; // ms
const LAST_DELAY = 2000;

/** Events: "open", "message" (its text as `detail`), "lost". */
export class Socket extends EventTarget {
  #path;
  #ws = null;
  #delay = FIRST_DELAY;

  constructor(path) {
    super();
    this.#path = path;
  }

  get isOpen() {
    return this.#ws?.readyState === WebSocket.OPEN;
  }

  /** Connect, and stay connected. */
  open() {
    const url = new URL(this.#path, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const ws = (this.#ws = new WebSocket(url));
    ws.onopen = () => {
      this.#delay = FIRST_DELAY;
      this.dispatchEvent(new Event("open"));
    };
    ws.onmessage = ({ data }) => this.dispatchEvent(new CustomEvent("message", { detail: data }));
    ws.onclose = () => {
      this.dispatchEvent(new Event("lost"));
      setTimeout(() => this.open(), this.#delay);
      this.#delay = Math.min(this.#delay * 2, LAST_DELAY);
    };
  }

  send(text) {
    this.#ws.send(text);
  }
}
