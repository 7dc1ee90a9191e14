// The server's schema (query-qmp-schema) and its documentation, for completion and help.

export class Schema {
  #entries;
  #help;

  constructor(entries = [], help = {}) {
    this.#entries = new Map(entries.map((entry) => [entry.name, entry]));
    this.#help = help;
  }

  /** The names of all commands. */
  get commands() {
    return [...this.#entries.values()].filter((entry) => entry["meta-type"] === "command").map(({ name }) => name).sort();
  }

  /** A command's arguments: name, type, optional, text. */
  arguments(command) {
    const entry = this.#entries.get(command);
    const type = entry?.["meta-type"] === "command" ? this.#entries.get(entry["arg-type"]) : null;
    const texts = this.#help[command]?.members ?? {};
    return (type?.members ?? []).map(({ name, type: of, default: value }) => ({
      name,
      type: of,
      optional: value !== undefined,
      text: texts[name] ?? "",
    }));
  }

  /** Whether the command exists. */
  has(command) {
    return this.#entries.get(command)?.["meta-type"] === "command";
  }

  /** A command's documentation, or "". */
  text(command) {
    return this.#help[command]?.text ?? "";
  }

  /** A command's result: type and documentation. */
  returns(command) {
    const type = this.describe(this.#entries.get(command)["ret-type"]);
    const text = this.#help[command]?.returns ?? "";
    return type === "{}" ? text : [type, text].filter(Boolean).join(": ");
  }

  /** The values of an enumeration or a boolean, for completion. */
  values(type) {
    if (type === "bool") return ["true", "false"];
    return this.#entries.get(type)?.values ?? [];
  }

  /** Whether all values of a type are strings. */
  isString(type) {
    return type === "str" || this.#entries.get(type)?.["meta-type"] === "enum";
  }

  /** A short description of a type. */
  describe(type) {
    const entry = this.#entries.get(type);
    switch (entry?.["meta-type"]) {
      case "enum":
        return entry.values.join("|");
      case "array":
        return `[${this.describe(entry["element-type"])}]`;
      case "object":
        return entry.members.length ? `{${entry.members.map(({ name }) => name).join(", ")}}` : "{}";
      case "alternate":
        return entry.members.map((member) => this.describe(member.type)).join(" or ");
      default:
        return type;
    }
  }
}
