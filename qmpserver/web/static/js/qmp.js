// A QMP session over a Socket: greeting, negotiation, commands with their replies, events.

/** An error reply. */
export class QmpError extends Error {
  constructor(error) {
    super(error.desc);
    this.name = error.class;
  }
}

/** Events: "ready" when commands can be sent, "event" (the message as `detail`), "lost". */
export class Qmp extends EventTarget {
  #socket;
  #waiting = new Map();
  #last = 0;
  ready = false;

  constructor(socket) {
    super();
    this.#socket = socket;
    socket.addEventListener("message", ({ detail }) => this.#receive(detail));
    socket.addEventListener("lost", () => this.#lost());
  }

  /** Execute a command; returns its result, throws a QmpError if it fails. */
  async execute(name, args) {
    const message = JSON.stringify({ execute: name, arguments: args });
    const { reply } = await this.send(message);
    if (reply.error) throw new QmpError(reply.error);
    return reply.return;
  }

  /** Send a message, JSON text of an object, with a generated id unless it has one.
   *  Returns its reply: `{raw, reply}`, the text as it came and its value. */
  send(text) {
    if (!this.ready) return Promise.reject(new Error("not connected"));
    let { id } = JSON.parse(text);
    if (id === undefined) {
      id = `page-${(this.#last += 1)}`;
      text = text.replace(/\{\s*/, (start) => `${start}"id": "${id}", `);
    }
    return new Promise((resolve, reject) => {
      this.#waiting.set(JSON.stringify(id), { resolve, reject });
      this.#socket.send(text);
    });
  }

  #receive(raw) {
    const message = JSON.parse(raw);
    if (message.QMP) {
      this.ready = true;
      this.execute("qmp_capabilities").then(() => this.dispatchEvent(new Event("ready")));
    } else if (message.event) {
      this.dispatchEvent(new CustomEvent("event", { detail: message }));
    } else {
      // An error without an id answers a message that the server could not parse: the first one waiting.
      const key = "id" in message ? JSON.stringify(message.id) : this.#waiting.keys().next().value;
      this.#waiting.get(key)?.resolve({ raw, reply: message });
      this.#waiting.delete(key);
    }
  }

  #lost() {
    if (!this.ready) return; // another failed attempt
    this.ready = false;
    for (const { reject } of this.#waiting.values()) reject(new Error("the connection closed before the reply"));
    this.#waiting.clear();
    this.dispatchEvent(new Event("lost"));
  }
}
