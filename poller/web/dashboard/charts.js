// The two charts, as inline SVG. A chart is redrawn when its data or its size changes; nothing is animated.

import { at, bound, count, duration, rate, time } from "./text.js";

const NS = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const label = (x, y, text, attributes = {}) => svg("text", { x, y, ...attributes }, text);

// Round numbers, from 0 to the first above `top`.
function ticks(top, most) {
  const rough = top / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const all = [];
  for (let tick = 0; tick < top + step; tick += step) all.push(Number(tick.toPrecision(6)));
  return all;
}

// Steps of ten seconds, or of a minute when there are many; a run's first step is shorter.
export function spans(pace) {
  const perSpan = pace.polls.length > 90 ? 6 : 1;
  const all = [];
  let end_at = pace.end_at;
  for (let end = pace.polls.length; end > 0; end -= perSpan) {
    const sum = (list) => list.slice(Math.max(0, end - perSpan), end).reduce((total, each) => total + each, 0);
    const seconds = sum(pace.seconds);
    if (!seconds) continue;
    all.unshift({ end_at, seconds, polls: sum(pace.polls) / seconds, finished: sum(pace.finished) / seconds, paused: sum(pace.paused) > 0 });
    end_at -= seconds;
  }
  return { seconds: perSpan * pace.step_s, all };
}

const TIME_STEPS = [60, 120, 300, 600, 900, 1200, 1800];

function timeTicks(from, to, most) {
  const step = TIME_STEPS.find((candidate) => (to - from) / candidate <= most) ?? 3600;
  const all = [];
  for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) all.push(tick);
  return all;
}

const SHORTEST_S = 120; // a run that has just started does not fill the width

export function drawPace(host, { seconds, all }, readOut) {
  const width = host.clientWidth;
  const height = host.clientHeight;
  const edge = { left: 40, right: 6, top: 10, bottom: 22 };
  const to = all.length ? all.at(-1).end_at : Date.now() / 1000;
  const from = Math.min(all.length ? all[0].end_at - all[0].seconds : to, to - SHORTEST_S);
  const top = Math.max(all.length ? 0.1 : 1, ...all.map((span) => Math.max(span.polls, span.finished)));
  const rows = ticks(top * 1.02, height > 150 ? 4 : 3);
  const x = (instant) => edge.left + ((instant - from) / (to - from)) * (width - edge.left - edge.right);
  const y = (value) => height - edge.bottom - (value / rows.at(-1)) * (height - edge.top - edge.bottom);
  const floor = y(0);

  const grid = svg("g", { class: "grid-lines" });
  for (const row of rows) {
    grid.append(svg("line", { x1: edge.left, x2: width - edge.right, y1: y(row), y2: y(row) }));
    grid.append(label(edge.left - 7, y(row) + 4, row >= 1000 ? `${row / 1000}k` : String(row), { "text-anchor": "end" }));
  }
  for (const tick of timeTicks(from, to, Math.max(2, Math.floor(width / 90)))) {
    const anchor = x(tick) > width - 24 ? "end" : x(tick) < edge.left + 12 ? "start" : "middle";
    grid.append(label(x(tick), height - 5, time(tick), { "text-anchor": anchor }));
  }

  const paused = svg("g", { class: "paused" });
  for (const span of all.filter((each) => each.paused)) {
    const left = x(span.end_at - span.seconds);
    paused.append(svg("rect", { x: left, y: edge.top, width: x(span.end_at) - left, height: floor - edge.top }));
  }

  const middle = (span) => x(span.end_at - span.seconds / 2);
  const line = (key) => all.map((span) => `${middle(span).toFixed(1)},${y(span[key]).toFixed(1)}`).join(" ");
  const drawing = svg("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": all.length
      ? `Outcomes and polls per second since ${time(from)}. The table below has the numbers.`
      : "No figures yet: the first ones come after ten seconds.",
  }, grid, paused);
  if (all.length) {
    const area = `${middle(all[0])},${floor} ${line("finished")} ${middle(all.at(-1))},${floor}`;
    drawing.append(svg("polygon", { class: "area-finished", points: area }));
    drawing.append(svg("polyline", { class: "polls", points: line("polls") }));
    drawing.append(svg("polyline", { class: "finished", points: line("finished") }));
    if (all.length === 1) {
      for (const key of ["polls", "finished"]) {
        drawing.append(svg("circle", { class: `dot-${key}`, cx: middle(all[0]), cy: y(all[0][key]), r: 3 }));
      }
    }
  } else {
    drawing.append(label((edge.left + width) / 2, height / 2, "the first figures come after ten seconds", { "text-anchor": "middle" }));
  }

  const hair = svg("line", { class: "hair", y1: edge.top, y2: floor, visibility: "hidden" });
  drawing.append(hair);
  drawing.addEventListener("pointermove", (event) => {
    const seen = event.clientX - drawing.getBoundingClientRect().left;
    const near = all.reduce((best, span) => (Math.abs(middle(span) - seen) < Math.abs(middle(best) - seen) ? span : best), all[0]);
    if (!near) return;
    hair.setAttribute("x1", middle(near));
    hair.setAttribute("x2", middle(near));
    hair.setAttribute("visibility", "visible");
    readOut(`${at(near.end_at - near.seconds, to, { seconds: seconds < 60 })}: ${rate(near.finished)} outcomes, ${rate(near.polls)} polls per second`);
  });
  drawing.addEventListener("pointerleave", () => {
    hair.setAttribute("visibility", "hidden");
    readOut(null);
  });
  host.replaceChildren(drawing);
}

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
      ? `How long ${count(spread.total)} imports took: half under ${duration(spread.median_s)}, 95 % under ${duration(spread.p95_s)}. The table below has the numbers.`
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
      drawing.append(svg("rect", { class: "band", x: low + 0.75, y: floor - tall, width: Math.max(1, high - low - 1.5), height: tall, rx: 2 },
        svg("title", {}, `${band.name}: ${count(band.count)}`)));
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
  const isCrowded = nearly - half < 48;
  const mark = (at, name) => {
    drawing.append(svg("line", { class: "mark", x1: at, x2: at, y1: name ? 16 : edge.top, y2: floor }));
    if (name) drawing.append(label(Math.min(Math.max(at, 16), width - 18), 10, name, { "text-anchor": "middle", class: "mark-name" }));
  };
  mark(half, "half");
  mark(nearly, isCrowded ? "" : "95 %");
}
