// Whether rates are known: while a limit is in service or a measurement runs. The page starts a
// measurement only at the user's request.

import { byId, setText } from "./dom.js";

const SECONDS = 10;

export class Tracking {
  #qmp;
  #log;
  #ring;
  #button = byId("measure");

  constructor(qmp, log) {
    this.#qmp = qmp;
    this.#log = log;
    this.#button.onclick = () => this.measure();
  }

  setMachine(machine) {
    this.#ring = machine["ring-size"] > 0;
  }

  update({ rates, limits }) {
    const limited = limits.filter(Boolean).length;
    const why = limited
      ? `Tracked: ${limited === limits.length ? "all" : limited} of ${limits.length} vCPUs limited.`
      : "Tracked: a measurement, or another user of tracking.";
    const not = this.#ring
      ? "Not tracked: rates are known only while a limit is in service or a measurement runs."
      : "No dirty ring, so no limits and no rates of vCPUs. Start with -accel kvm,dirty-ring-size=4096.";
    setText(byId("tracking-text"), rates ? why : not);
    byId("tracking").classList.toggle("off", !rates);
    this.#button.disabled = !this.#qmp.ready;
  }

  async measure() {
    const mode = this.#ring ? "dirty-ring" : "page-sampling";
    try {
      await this.#qmp.execute("calc-dirty-rate", { "calc-time": SECONDS, mode });
      this.#log.note(`measuring the dirty rate for ${SECONDS} s`);
      await new Promise((resolve) => setTimeout(resolve, SECONDS * 1000 + 500));
      const result = await this.#qmp.execute("query-dirty-rate");
      if (result.status === "measured") this.#log.note(`measured ${result["dirty-rate"]} MB/s over ${SECONDS} s`);
    } catch (error) {
      this.#log.bad(`calc-dirty-rate: ${error.message}`);
    }
  }
}
