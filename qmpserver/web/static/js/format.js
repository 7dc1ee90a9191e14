// Formatting of numbers and times.

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** The time of day, from seconds since 1970. */
export const timeOfDay = (seconds) => clock.format(seconds * 1000);

/** A size in bytes, in the largest unit that divides it. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1024 && bytes % 1024 === 0 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${bytes} ${units[unit]}`;
}

/** A duration in ns, to two digits. */
export function duration(ns) {
  for (const [unit, length] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]]) {
    if (ns >= length) return `${Number((ns / length).toPrecision(2))} ${unit}`;
  }
  return `${ns} ns`;
}

/** Ascending numbers as ranges: 0–3, 7. */
export function ranges(numbers) {
  const parts = [];
  for (const number of numbers) {
    const last = parts.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ");
}
