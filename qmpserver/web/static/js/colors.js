// The colours of vCPUs, and the style sheet's colours for drawing on a canvas.

const dark = matchMedia("(prefers-color-scheme: dark)");
const LIGHT = ["#1f6fb4", "#c2570c", "#2c8a3d", "#8b3fb0", "#b3202c", "#0d8a8f", "#8a6d00", "#d0418a"];
const DARK = ["#5aa9f0", "#f09048", "#5cc06e", "#c08be6", "#f0717a", "#4cc8cc", "#d9b93a", "#f284bd"];

/** The colour of a vCPU; after the first ones, hues are spread over the circle. */
export function ofVcpu(index) {
  const first = dark.matches ? DARK : LIGHT;
  if (index < first.length) return first[index];
  return `hsl(${(index * 137.5) % 360} 55% ${dark.matches ? 66 : 40}%)`;
}

/** A colour of the style sheet, by its property name. */
export const ofPage = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Call back when the colour scheme changes. */
export const onChange = (callback) => dark.addEventListener("change", callback);
