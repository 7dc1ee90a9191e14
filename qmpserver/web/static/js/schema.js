// The server's own schema (query-qmp-schema), and what its documentation says: to complete and explain.

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

  /** A command's arguments: name, type, whether optional, description. */
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

  /** Whether there is such a command. */
  has(command) {
    return this.#entries.get(command)?.["meta-type"] === "command";
  }

  /** What a command does, in words; "" where that is not known. */
  text(command) {
    return this.#help[command]?.text ?? "";
  }

  /** What a command returns. */
  returns(command) {
    const type = this.describe(this.#entries.get(command)["ret-type"]);
    const text = this.#help[command]?.returns ?? "";
    return type === "{}" ? text : [type, text].filter(Boolean).join(": ");
  }

  /** The values of a type, where it has only a few. */
  values(type) {
    if (type === "bool") return ["true", "false"];
    return this.#entries.get(type)?.values ?? [];
  }

  /** Whether values of a type are always strings. */
  isString(type) {
    return type === "str" || this.#entries.get(type)?.["meta-type"] === "enum";
  }

  /** A type in a few words. */
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
