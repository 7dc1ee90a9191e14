// Lines of the console, `command key=value …` or JSON: conversion to messages, and completion.
//
// Messages are built as text, so numbers reach the server with all digits.

/** Split a line into words at blanks outside quotes and brackets. */
function words(line) {
  const found = [];
  let start = -1;
  let depth = 0;
  let quoted = false;
  for (let at = 0; at <= line.length; at += 1) {
    const char = line[at];
    if (quoted) {
      if (char === "\\") at += 1;
      else if (char === '"') quoted = false;
    } else if (char === '"') quoted = true;
    else if ("{[".includes(char)) depth += 1;
    else if ("}]".includes(char)) depth -= 1;
    const ends = char === undefined || (/\s/.test(char) && !quoted && depth <= 0);
    if (ends && start >= 0) {
      found.push({ text: line.slice(start, at), from: start });
      start = -1;
    } else if (!ends && start < 0) start = at;
  }
  return found;
}

function value(text, isString) {
  try {
    const parsed = JSON.parse(text);
    if (typeof parsed === "string" || !isString) return text;
  } catch {
    // A string without quotes.
  }
  return JSON.stringify(text);
}

/** Convert a line to a message, as JSON text. Throws an Error if the line is invalid. */
export function parse(line, schema) {
  if (line.startsWith("{")) {
    const message = JSON.parse(line);
    if (!Object.keys(message).length) throw new Error('"execute" is missing');
    return line;
  }
  const [command, ...rest] = words(line).map(({ text }) => text);
  const types = new Map(schema.arguments(command).map(({ name, type }) => [name, type]));
  const pairs = rest.map((word) => {
    const at = word.indexOf("=");
    if (at < 1) throw new Error(`'${word}' is not key=value`);
    const key = word.slice(0, at);
    return `${JSON.stringify(key)}: ${value(word.slice(at + 1), schema.isString(types.get(key)))}`;
  });
  const args = pairs.length ? `, "arguments": {${pairs.join(", ")}}` : "";
  return `{"execute": ${JSON.stringify(command)}${args}}`;
}

/** The command in a line, or "". */
export function commandOf(line) {
  if (line.startsWith("{")) return /"exec(?:ute|-oob)"\s*:\s*"([^"]*)"/.exec(line)?.[1] ?? "";
  return words(line)[0]?.text ?? "";
}

const firstLine = (text) => text.split(/\n\n|(?<=\.)\s/)[0].replaceAll(/\s+/g, " ").replaceAll("``", "");

/** The completions at the end of a line: `{from, options: [{text, note}]}`. */
export function complete(line, schema) {
  const names = (part, after) =>
    schema.commands
      .filter((name) => name.includes(part))
      .sort((a, b) => b.startsWith(part) - a.startsWith(part))
      .map((name) => ({ text: name + after, note: firstLine(schema.text(name)) }));
  const keys = (part, given, write) =>
    schema
      .arguments(commandOf(line))
      .filter(({ name }) => name.startsWith(part) && !given.includes(name))
      .map((arg) => ({
        text: write(arg),
        note: `${schema.describe(arg.type)}${arg.optional ? ", optional" : ""}${arg.text && `: ${firstLine(arg.text)}`}`,
      }));

  if (line.startsWith("{")) return completeJson(line, names, keys);
  const parts = words(line);
  const last = /\s$/.test(line) || !parts.length ? { text: "", from: line.length } : parts.pop();
  if (!parts.length) return { from: last.from, options: names(last.text, " ") };
  const equals = last.text.indexOf("=");
  if (equals < 0) {
    const given = parts.slice(1).map(({ text }) => text.split("=")[0]);
    return { from: last.from, options: keys(last.text, given, ({ name }) => `${name}=`) };
  }
  const argument = schema.arguments(parts[0].text).find(({ name }) => name === last.text.slice(0, equals));
  const begun = last.text.slice(equals + 1);
  const values = argument ? schema.values(argument.type).filter((one) => one.startsWith(begun)) : [];
  return { from: last.from + equals + 1, options: values.map((one) => ({ text: `${one} `, note: "" })) };
}

function completeJson(line, names, keys) {
  const named = /"exec(?:ute|-oob)"\s*:\s*"([^"]*)$/.exec(line);
  if (named) return { from: line.length - named[1].length, options: names(named[1], '"') };
  const args = /"arguments"\s*:\s*\{(.*)$/s.exec(line);
  const key = args && /(?:^|,)\s*"([^"]*)$/.exec(args[1]);
  if (!key) return { from: line.length, options: [] };
  const given = [...args[1].matchAll(/"([^"]*)"\s*:/g)].map((match) => match[1]);
  return { from: line.length - key[1].length, options: keys(key[1], given, ({ name }) => `${name}": `) };
}
