// Finding and making elements. Text is always text: nothing here parses HTML.

export const byId = (id) => document.getElementById(id);

/** Make an element; properties with a dash, and `role`, are attributes. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** Set an element's text, touching the page only where it changes. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Do something to a scrolled element; one that showed its end goes on showing it. */
export function keepingEnd(node, change) {
  const atEnd = node.scrollHeight - node.scrollTop - node.clientHeight < 8;
  change();
  if (atEnd) node.scrollTop = node.scrollHeight;
}
