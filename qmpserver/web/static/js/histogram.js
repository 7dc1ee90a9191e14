// A log2 histogram of ns as bars: bucket 0 is 0 ns, bucket n is [2^(n-1), 2^n) ns.

import { el } from "./dom.js";
import { duration } from "./format.js";

/** Show the buckets from the first to the last non-empty one. */
export function showHistogram(place, buckets) {
  const key = buckets.join();
  if (place.dataset.shown === key) return;
  place.dataset.shown = key;
  const first = buckets.findIndex(Boolean);
  if (first < 0) {
    place.replaceChildren(el("span", { className: "none" }, "none yet"));
    return;
  }
  const most = Math.max(...buckets);
  place.replaceChildren(
    ...buckets.slice(first).flatMap((count, at) => {
      const bar = el("span");
      bar.style.transform = `scaleX(${count / most})`;
      const upper = duration(2 ** (first + at));
      return [
        el("span", { className: "range" }, `< ${upper}`),
        el("span", { className: "bar" }, bar),
        el("span", { className: "count" }, `${count}`),
      ];
    }),
  );
}
