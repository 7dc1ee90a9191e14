// The QMP console: the input line with completion, help and history, and the replies.

import { commandOf, complete, parse } from "./command.js";
import { byId, el, keepingEnd, setText } from "./dom.js";
import { pretty } from "./pretty.js";
import { Schema } from "./schema.js";

const MOST_REPLIES = 100;
const MOST_LINES = 200;
const STORED = "qmp-lines";

export class Console {
  #qmp;
  #schema = new Schema();
  #line = byId("line");
  #list = byId("completions");
  #replies = byId("replies");
  #options = [];
  #from = 0;
  #chosen = -1;
  #lines = JSON.parse(localStorage.getItem(STORED) ?? "[]");
  #at = this.#lines.length;

  constructor(qmp) {
    this.#qmp = qmp;
    qmp.addEventListener("ready", () => this.#learn());
    byId("console-clear").onclick = () => this.#replies.replaceChildren();
    byId("console-form").onsubmit = (event) => {
      event.preventDefault();
      this.#run();
    };
    this.#line.oninput = () => this.#changed();
    this.#line.onkeydown = (event) => this.#key(event);
    this.#line.onblur = () => this.#close();
    this.#list.onpointerdown = (event) => {
      event.preventDefault(); // the line keeps the focus
      const option = event.target.closest("li");
      if (option) this.#accept([...this.#list.children].indexOf(option));
    };
  }

  focus() {
    this.#line.focus();
  }

  async #learn() {
    const [entries, help] = await Promise.all([
      this.#qmp.execute("query-qmp-schema"),
      fetch("help").then((response) => (response.ok ? response.json() : {})),
    ]);
    this.#schema = new Schema(entries, help);
    if (document.activeElement === this.#line) this.#changed();
  }

  // -- running a line

  async #run() {
    const line = this.#line.value.trim();
    if (!line) return;
    this.#remember(line);
    this.#line.value = "";
    this.#changed();
    const reply = el("pre", {}, "…");
    this.#replies.append(el("div", {}, el("div", { className: "sent" }, line), reply));
    if (this.#replies.childElementCount > MOST_REPLIES) this.#replies.firstChild.remove();
    this.#scroll();
    try {
      const { raw, reply: message } = await this.#qmp.send(parse(line, this.#schema));
      reply.classList.toggle("error", "error" in message);
      if (message.error) setText(reply, `${message.error.class}: ${message.error.desc}`);
      else setText(reply, pretty(returned(raw)));
    } catch (error) {
      reply.classList.add("error");
      setText(reply, error.message);
    }
    this.#scroll();
  }

  #scroll() {
    this.#replies.scrollTop = this.#replies.scrollHeight;
  }

  #remember(line) {
    this.#lines = [...this.#lines.filter((one) => one !== line), line].slice(-MOST_LINES);
    this.#at = this.#lines.length;
    localStorage.setItem(STORED, JSON.stringify(this.#lines));
  }

  #recall(step) {
    const at = this.#at + step;
    if (at < 0 || at > this.#lines.length) return;
    this.#at = at;
    this.#line.value = this.#lines[at] ?? "";
    this.#explain();
    this.#close();
  }

  // -- completion and help

  #changed() {
    this.#explain();
    if (this.#line.value) this.#open();
    else this.#close();
  }

  #open() {
    const { from, options } = complete(this.#line.value, this.#schema);
    this.#from = from;
    const begun = this.#line.value.slice(from);
    this.#options = options.filter(({ text }) => text.trim() !== begun);
    this.#list.replaceChildren(
      ...this.#options.map(({ text, note }, index) =>
        el("li", { id: `completion-${index}`, role: "option", "aria-selected": "false" }, el("span", {}, text), el("span", {}, note)),
      ),
    );
    this.#list.hidden = !this.#options.length;
    this.#opened();
  }

  #close() {
    this.#options = [];
    this.#list.hidden = true;
    this.#opened();
  }

  #opened() {
    const open = !this.#list.hidden;
    this.#line.setAttribute("aria-expanded", String(open));
    byId("help").classList.toggle("brief", open); // the list shows the other details
    this.#choose(-1);
    this.#scroll();
  }

  #choose(index) {
    this.#list.children[this.#chosen]?.setAttribute("aria-selected", "false");
    this.#chosen = index;
    const option = this.#list.children[index];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.#line.setAttribute("aria-activedescendant", option.id);
    else this.#line.removeAttribute("aria-activedescendant");
  }

  #accept(index) {
    this.#line.value = this.#line.value.slice(0, this.#from) + this.#options[index].text;
    this.#changed();
  }

  #key(event) {
    const open = this.#options.length > 0;
    const { key } = event;
    if (key === "Tab" && open && !event.shiftKey) this.#accept(Math.max(0, this.#chosen));
    else if (key === "Enter" && this.#chosen >= 0) this.#accept(this.#chosen);
    else if (key === "Escape" && open) this.#close();
    else if (key === " " && event.ctrlKey) this.#open();
    else if (key === "ArrowDown" && open) this.#choose((this.#chosen + 1) % this.#options.length);
    else if (key === "ArrowUp" && open && this.#chosen >= 0) this.#choose(this.#chosen - 1);
    else if (key === "ArrowUp") this.#recall(-1);
    else if (key === "ArrowDown") this.#recall(1);
    else return;
    event.preventDefault();
  }

  #explain() {
    keepingEnd(this.#replies, () => this.#showHelp(commandOf(this.#line.value.trim())));
  }

  #showHelp(command) {
    const pane = byId("help");
    pane.hidden = !this.#schema.has(command);
    if (pane.hidden || pane.dataset.command === command) return;
    pane.dataset.command = command;
    const args = this.#schema.arguments(command);
    const signature = args.map(({ name, optional }) => (optional ? `[${name}=]` : `${name}=`));
    const returns = this.#schema.returns(command);
    pane.replaceChildren(
      el("div", { className: "signature" }, [command, ...signature].join(" ")),
      ...this.#schema.text(command).split("\n\n").map((text) => el("p", {}, plain(text))),
      el(
        "dl",
        {},
        ...args.flatMap(({ name, type, text }) => [
          el("dt", {}, name),
          el("dd", {}, [this.#schema.describe(type), plain(text)].filter(Boolean).join(": ")),
        ]),
        ...(returns ? [el("dt", {}, "→"), el("dd", {}, plain(returns))] : []),
      ),
    );
  }
}

/** Documentation as one paragraph, without markup. */
const plain = (text) => text.replaceAll(/\s+/g, " ").replaceAll("``", "");

/** The text of a reply's "return", or the whole reply if the user chose its id. */
function returned(raw) {
  const match = /^\{"return": (.*), "id": "page-\d+"\}\s*$/s.exec(raw);
  return match ? match[1] : raw;
}
