// Keys that work outside input fields.

import { byId, el } from "./dom.js";

/** Bind keys: `{key: [description, function]}`; `others` are only listed. */
export function bindKeys(keys, others) {
  const dialog = byId("keys");
  const open = () => dialog.showModal();
  const all = { ...keys, "?": ["This list", open] };
  const listed = [...Object.entries(all).map(([key, [what]]) => [key, what]), ...Object.entries(others)];
  byId("keys-list").replaceChildren(
    ...listed.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]),
  );
  byId("keys-open").onclick = open;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=radio], [type=checkbox])");
    if (typing || dialog.open || event.ctrlKey || event.altKey || event.metaKey || !(event.key in all)) return;
    event.preventDefault();
    all[event.key][1]();
  });
}
