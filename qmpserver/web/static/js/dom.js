// Finding and creating elements. Text is never parsed as HTML.

export const byId = (id) => document.getElementById(id);

/** Create an element; properties with a dash, and `role`, are attributes. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** Set an element's text, if it differs. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Change a scrolled element; if it shows its end, keep showing it. */
export function keepingEnd(node, change) {
  const atEnd = node.scrollHeight - node.scrollTop - node.clientHeight < 8;
  change();
  if (atEnd) node.scrollTop = node.scrollHeight;
}
