// The run state; stop and cont.

import { byId, setText } from "./dom.js";

export class RunState {
  #status = byId("status");
  #button = byId("run");
  #qmp;
  #report;

  constructor(qmp, report) {
    this.#qmp = qmp;
    this.#report = report;
    this.#button.onclick = () => this.toggle();
    qmp.addEventListener("lost", () => {
      this.#button.disabled = true;
      this.#show("unknown");
    });
  }

  #show(status) {
    setText(this.#status, status);
    this.#status.dataset.state = status;
  }

  update({ status }) {
    this.#show(status);
    setText(this.#button, status === "running" ? "Stop" : "Cont");
    this.#button.disabled = !this.#qmp.ready;
  }

  async toggle() {
    const command = this.#status.dataset.state === "running" ? "stop" : "cont";
    try {
      await this.#qmp.execute(command);
    } catch (error) {
      this.#report(command, error);
    }
  }
}
