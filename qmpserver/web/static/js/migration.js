// The migration under way, or the last one: its progress; cancel.

import { byId, setText } from "./dom.js";

const UNDER_WAY = ["setup", "active", "pre-switchover", "device", "cancelling"];
const MB = 1 << 20;

const megabytes = (bytes) => `${Math.round(bytes / MB)} MiB`;

/** The figures of query-migrate in a line. */
function describe(info) {
  if (info["error-desc"]) return info["error-desc"];
  if (!info.ram) return "";
  const { ram } = info;
  const parts = [
    `${megabytes(ram.remaining)} remaining`,
    `${megabytes(ram.transferred)} sent`,
    `${Math.round((ram.mbps * 1e6) / 8 / MB)} MB/s`,
    `guest dirties ${Math.round((ram["dirty-pages-rate"] * ram["page-size"]) / MB)} MB/s`,
    `round ${ram["dirty-sync-count"]}`,
  ];
  if ("downtime" in info) parts.push(`total ${info["total-time"] / 1000} s`, `downtime ${info.downtime} ms`);
  return parts.join(" · ");
}

export class Migration {
  #qmp;
  #report;

  constructor(qmp, report) {
    this.#qmp = qmp;
    this.#report = report;
    byId("migration-cancel").onclick = () => this.#cancel();
  }

  update({ migration }) {
    byId("migration").hidden = !migration.status;
    if (!migration.status) return;
    const underWay = UNDER_WAY.includes(migration.status);
    const { ram } = migration;
    setText(byId("migration-status"), migration.status);
    byId("migration-status").dataset.state = migration.status;
    setText(byId("migration-figures"), describe(migration));
    byId("migration-progress").hidden = !ram;
    if (ram) byId("migration-progress").value = 1 - ram.remaining / ram.total;
    byId("migration-cancel").hidden = !underWay || !ram;
    byId("migration-cancel").disabled = !this.#qmp.ready || migration.status === "cancelling";
  }

  async #cancel() {
    try {
      await this.#qmp.execute("migrate_cancel");
    } catch (error) {
      this.#report("migrate_cancel", error);
    }
  }
}
