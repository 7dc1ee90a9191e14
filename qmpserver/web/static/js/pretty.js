// JSON with line breaks, from its text and not its value: every digit stays.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;
const INDENT = "  ";

/** Lay JSON text out; what is empty or a list of plain values stays on its line. */
export function pretty(text) {
  const tokens = text.match(TOKEN) ?? [];
  const out = [];
  let depth = 0;
  const newLine = () => out.push("\n", INDENT.repeat(depth));
  for (let at = 0; at < tokens.length; at += 1) {
    const token = tokens[at];
    if (token === "{" || token === "[") {
      const close = tokens.findIndex((one, index) => index > at && "{}[]".includes(one));
      const short = token === "[" ? tokens[close] === "]" : close === at + 1;
      if (short) {
        out.push(tokens.slice(at, close + 1).join("").replaceAll(/,(?=(?:[^"]|"[^"]*")*$)/g, ", "));
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
    } else out.push(token === ":" ? ": " : token);
  }
  return out.join("");
}
