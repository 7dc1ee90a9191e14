// Setting and cancelling limits, for all controls of the page.

/** Limits of sets of vCPUs; errors go to `report`. */
export class Limits {
  #qmp;
  #report;
  vcpus = 0;

  constructor(qmp, report) {
    this.#qmp = qmp;
    this.#report = report;
  }

  /** Limit vCPUs to `rate` MB/s. */
  set(indexes, rate) {
    return this.#each(indexes, "set-vcpu-dirty-limit", { "dirty-rate": rate });
  }

  /** Cancel the limits of vCPUs. */
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
