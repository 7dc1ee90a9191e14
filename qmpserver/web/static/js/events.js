// The event log: QMP events, and notes of the page itself.

import { byId, el, keepingEnd } from "./dom.js";
import { timeOfDay } from "./format.js";

const MOST = 500;

export class EventLog {
  #list = byId("event-log");

  constructor() {
    byId("events-clear").onclick = () => this.#list.replaceChildren();
  }

  /** Log a QMP event. */
  event({ event, data, timestamp }) {
    this.#add(timestamp.seconds, event, data ? JSON.stringify(data) : "");
  }

  /** Log a note of the page. */
  note(text, time = Date.now() / 1000) {
    this.#add(time, text, "");
  }

  /** Log an error. */
  bad(text, time = Date.now() / 1000) {
    this.#add(time, text, "", true);
  }

  #add(time, what, data, bad = false) {
    const text = el("span", { className: bad ? "bad" : "" }, what, " ", el("span", { className: "data" }, data));
    keepingEnd(this.#list, () => {
      this.#list.append(el("li", {}, el("time", {}, timeOfDay(time)), text));
      if (this.#list.childElementCount > MOST) this.#list.firstChild.remove();
    });
  }
}
