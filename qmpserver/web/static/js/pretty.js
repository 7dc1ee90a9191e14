// Formatting of JSON text, not of its value: all digits are kept.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;
const INDENT = "  ";
const SHORT = 72; // characters of a value on one line

const SPACED = { ",": ", ", ":": ": " };

/** The index of the bracket that closes the one at an index, if nothing is nested in between. */
function closing(tokens, at) {
  for (let place = at + 1; place < tokens.length; place += 1) {
    if ("}]".includes(tokens[place])) return place;
    if ("{[".includes(tokens[place])) break;
  }
  return -1;
}

/** Format JSON text; short innermost values stay on one line. */
export function pretty(text) {
  const tokens = text.match(TOKEN) ?? [];
  const out = [];
  let depth = 0;
  const newLine = () => out.push("\n", INDENT.repeat(depth));
  for (let at = 0; at < tokens.length; at += 1) {
    const token = tokens[at];
    if (token === "{" || token === "[") {
      const close = closing(tokens, at);
      const inside = tokens.slice(at + 1, Math.max(close, at)).map((one) => SPACED[one] ?? one).join("");
      if (close > 0 && inside.length <= SHORT) {
        out.push(token, inside, tokens[close]);
        at = close;
        continue;
      }
      out.push(token);
      depth += 1;
      newLine();
    } else if (token === "}" || token === "]") {
      depth -= 1;
      newLine();
      out.push(token);
    } else if (token === ",") {
      out.push(token);
      newLine();
    } else out.push(SPACED[token] ?? token);
  }
  return out.join("");
}
