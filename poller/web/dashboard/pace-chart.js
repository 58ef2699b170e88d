// The pace as an inline SVG, redrawn when its data or its size changes; nothing is animated.

import { label, showUnderPointer, svg, ticks } from "./svg.js";
import { at, dayTime, rate, share, time } from "./text.js";

// A run's steps of ten seconds, six of them together when there are many; its first step is shorter. A state's steps cover
// all of its time, and its polls are not known. Of a run that starts imports, the requests are polls and starts.
export function spans(pace) {
  const hasPolls = pace.polls.length > 0;
  const word = pace.starts.some((each) => each) ? "requests" : "polls";
  const steps = pace.finished.length;
  const perSpan = hasPolls && steps > 90 ? 6 : 1;
  const all = [];
  let end_at = pace.end_at;
  for (let end = steps; end > 0; end -= perSpan) {
    const sum = (list) => list.slice(Math.max(0, end - perSpan), end).reduce((total, each) => total + each, 0);
    const seconds = sum(pace.seconds);
    if (!seconds) continue;
    const paused = sum(pace.paused) / Math.min(perSpan, end);
    all.unshift({ end_at, seconds, polls: (sum(pace.polls) + sum(pace.starts)) / seconds, finished: sum(pace.finished) / seconds, paused });
    end_at -= seconds;
  }
  return { seconds: perSpan * pace.step_s, all, hasPolls, word };
}

const HOUR_S = 3600;
const TIME_STEPS = [15, 30, 60, 120, 300, 600, 900, 1200, 1800, HOUR_S, 2 * HOUR_S, 6 * HOUR_S, 12 * HOUR_S];

function timeTicks(from, to, most) {
  const fits = (candidate) => (to - from) / candidate <= most;
  const step = TIME_STEPS.find(fits) ?? Math.ceil((to - from) / most / (24 * HOUR_S)) * 24 * HOUR_S;
  const all = [];
  for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) all.push(tick);
  return all;
}

const SHORTEST_S = 60; // a run that has just started does not fill the width

export function drawPace(host, { seconds, all, hasPolls, word }) {
  const width = host.clientWidth;
  const height = host.clientHeight;
  const edge = { left: 40, right: 6, top: 10, bottom: 22 };
  const end = all.length ? all.at(-1).end_at : Date.now() / 1000;
  const from = all.length ? all[0].end_at - all[0].seconds : end - SHORTEST_S;
  const to = Math.max(end, from + SHORTEST_S);
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
  const name = (tick) => (to - from > 24 * HOUR_S ? dayTime(tick) : tick % 60 ? at(tick, end, { seconds: true }) : time(tick));
  for (const tick of timeTicks(from, to, Math.max(2, Math.floor(width / 90)))) {
    const anchor = x(tick) > width - 24 ? "end" : x(tick) < edge.left + 12 ? "start" : "middle";
    grid.append(label(x(tick), height - 5, name(tick), { "text-anchor": anchor }));
  }

  const paused = svg("g", { class: "paused" });
  for (const span of all.filter((each) => each.paused)) {
    const left = x(span.end_at - span.seconds);
    const tall = span.paused * (floor - edge.top);
    paused.append(svg("rect", { x: left, y: floor - tall, width: x(span.end_at) - left, height: tall }));
  }

  const middle = (span) => x(span.end_at - span.seconds / 2);
  const line = (key) => all.map((span) => `${middle(span).toFixed(1)},${y(span[key]).toFixed(1)}`).join(" ");
  const drawing = svg("svg", {
    width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": all.length
      ? `${hasPolls ? `Outcomes and ${word}` : "Outcomes"} per second since ${time(from)}. The table below has the numbers.`
      : "No figures yet: the first ones come after ten seconds.",
  }, grid, paused);
  if (all.length) {
    const area = `${middle(all[0])},${floor} ${line("finished")} ${middle(all.at(-1))},${floor}`;
    drawing.append(svg("polygon", { class: "area-finished", points: area }));
    if (hasPolls) drawing.append(svg("polyline", { class: "polls", points: line("polls") }));
    drawing.append(svg("polyline", { class: "finished", points: line("finished") }));
    if (all.length === 1) {
      for (const key of hasPolls ? ["polls", "finished"] : ["finished"]) {
        drawing.append(svg("circle", { class: `dot-${key}`, cx: middle(all[0]), cy: y(all[0][key]), r: 3 }));
      }
    }
  } else {
    drawing.append(label((edge.left + width) / 2, height / 2, "the first figures come after ten seconds", { "text-anchor": "middle" }));
  }

  host.replaceChildren(drawing);
  showUnderPointer(host, drawing, { top: edge.top, bottom: floor }, (seen) => {
    if (!all.length) return null;
    const near = all.reduce((best, span) => (Math.abs(middle(span) - seen) < Math.abs(middle(best) - seen) ? span : best));
    const lines = [at(near.end_at - near.seconds, end, { seconds: seconds < 60 }), `${rate(near.finished)} outcomes per s`];
    if (hasPolls) lines.push(`${rate(near.polls)} ${word} per s`);
    if (near.paused) lines.push(pausedText(near.paused));
    return { x: middle(near), lines };
  });
}

export const pausedText = (part) => (part < 1 ? `${share(part, 1)} of the accounts paused` : "paused");
