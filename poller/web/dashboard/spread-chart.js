// How long imports take, as an inline SVG histogram, redrawn when its data or its size changes.

import { label, showUnderPointer, svg } from "./svg.js";
import { atMost, bound, plural, share } from "./text.js";

// The bands to show: from the first to the last that is not empty, and one neighbour on each side.
export function bands(spread) {
  const first = spread.counts.findIndex((n) => n > 0);
  if (first < 0) return [];
  const last = spread.counts.length - 1 - [...spread.counts].reverse().findIndex((n) => n > 0);
  const all = [];
  for (let index = Math.max(0, first - 1); index <= Math.min(last + 1, spread.counts.length - 1); index += 1) {
    const low = index === 0 ? 0 : spread.bounds_s[index - 1];
    const high = spread.bounds_s[index] ?? Infinity;
    const name = index === 0 ? `up to ${bound(high)}` : high === Infinity ? `over ${bound(low)}` : `${bound(low)} to ${bound(high)}`;
    all.push({ low, high, name, count: spread.counts[index] });
  }
  return all;
}

// Bands are on a logarithmic scale and differ in width, so a bar's area is its count. The two open ends get a factor of two.
const left = (band) => Math.log(band.low || band.high / 2);
const right = (band) => Math.log(band.high === Infinity ? band.low * 2 : band.high);
const density = (band) => band.count / (right(band) - left(band));

const NARROWEST = Math.log(64); // of the whole scale: a few equal durations do not fill the chart

export function drawSpread(host, spread, all) {
  const width = host.clientWidth;
  const height = host.clientHeight;
  const edge = { left: 4, right: 4, top: 30, bottom: 24 };
  const floor = height - edge.bottom;
  const drawing = svg("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": all.length
      ? `How long ${plural(spread.total, "import")} took: half under ${atMost(spread.median_s)}, 95 % under ${atMost(spread.p95_s)}. The table below has the numbers.`
      : "Nothing measured yet.",
  });
  drawing.append(svg("line", { class: "floor", x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }));
  host.replaceChildren(drawing);
  if (!all.length) {
    drawing.append(label(width / 2, height / 2, "no import has ended yet", { "text-anchor": "middle" }));
    return;
  }
  const from = left(all[0]);
  const whole = Math.max(NARROWEST, right(all.at(-1)) - from);
  const begin = edge.left + ((whole - right(all.at(-1)) + from) / 2 / whole) * (width - edge.left - edge.right);
  const x = (logarithm) => begin + ((logarithm - from) / whole) * (width - edge.left - edge.right);
  const most = Math.max(...all.map(density));
  let free = -Infinity; // right end of the last label
  for (const band of all) {
    const [low, high] = [x(left(band)), x(right(band))];
    if (band.count) {
      const tall = Math.max(2, (density(band) / most) * (floor - edge.top));
      drawing.append(svg("rect", { class: "band", x: low + 0.75, y: floor - tall, width: Math.max(1, high - low - 1.5), height: tall, rx: 2 }));
    }
    if (band.high === Infinity) continue;
    const text = bound(band.high);
    const half = text.length * 3.4;
    const middle = Math.min(high, width - half);
    if (middle - half < free + 8) continue;
    free = middle + half;
    drawing.append(svg("line", { class: "floor", x1: high, x2: high, y1: floor, y2: floor + 4 }));
    drawing.append(label(middle, height - 6, text, { "text-anchor": "middle" }));
  }
  const xOf = (seconds) => Math.min(Math.max(x(Math.log(Math.max(seconds, 0.01))), begin), x(right(all.at(-1))));
  const [half, nearly] = [xOf(spread.median_s), xOf(spread.p95_s)];
  const apart = 44; // between the middles of the two names
  const spare = Math.max(0, apart - (nearly - half)) / 2;
  const first = Math.min(Math.max(half - spare, 16), width - 18 - apart);
  const mark = (at, middle, name) => {
    drawing.append(svg("line", { class: "mark", x1: at, x2: at, y1: 16, y2: floor }));
    drawing.append(label(middle, 10, name, { "text-anchor": "middle", class: "mark-name" }));
  };
  mark(half, first, "half");
  mark(nearly, Math.min(Math.max(nearly + spare, first + apart), width - 18), "95 %");
  showUnderPointer(host, drawing, { top: edge.top, bottom: floor }, (seen) => {
    const band = all.find((each) => seen >= x(left(each)) && seen < x(right(each)));
    if (!band) return null;
    const lines = [band.name, plural(band.count, "import"), `${share(band.count, spread.total)} of all`];
    return { x: (x(left(band)) + x(right(band))) / 2, lines };
  });
}
