// Setting and cancelling limits: what every control on the page does it by.

/** Commands for sets of vCPUs of one machine; `report` gets errors. */
export class Limits {
  #qmp;
  #report;
  vcpus = 0;

  constructor(qmp, report) {
    this.#qmp = qmp;
    this.#report = report;
  }

  /** Limit vCPUs to some MB/s. */
  set(indexes, rate) {
    return this.#each(indexes, "set-vcpu-dirty-limit", { "dirty-rate": rate });
  }

  /** End the limits of vCPUs. */
  cancel(indexes) {
    return this.#each(indexes, "cancel-vcpu-dirty-limit", {});
  }

  async #each(indexes, command, args) {
    const all = indexes.length === this.vcpus;
    const commands = all ? [args] : indexes.map((index) => ({ ...args, "cpu-index": index }));
    try {
      await Promise.all(commands.map((one) => this.#qmp.execute(command, one)));
    } catch (error) {
      this.#report(command, error);
    }
  }
}
