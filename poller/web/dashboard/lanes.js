// The card of limits: each account with its use of them, its pause, and the buttons that pause and resume it.

import { act, pauseAccount, resumeAccount } from "./actions.js";
import { $, element, setData, setText, update } from "./dom.js";
import { tasksWhere } from "./route.js";
import { at, BY_PERSON, count, duration, plural, share } from "./text.js";

export function showLanes({ lanes, polls_per_task: pollsPerTask, now, is_read_only: isReadOnly }) {
  const cost = $("cost");
  cost.hidden = !pollsPerTask;
  if (!cost.hidden) setText(cost, `${pollsPerTask.toFixed(2)} polls per outcome`);
  update($("lanes"), lanes, { key: (lane) => lane.account, make: makeLane, fill: (node, lane) => fillLane(node, lane, now, isReadOnly) });
}

function gauge(name) {
  return element("div", { class: "gauge", "data-part": name },
    element("p", { class: "gauge-text" }, element("span"), element("span", { class: "n" })),
    element("div", { class: "meter", role: "meter", "aria-valuemin": "0" }, element("span", { class: "fill" })));
}

function makeLane(lane) {
  return element("li", { class: "lane" },
    element("p", { class: "lane-name" }, element("a", { href: tasksWhere({ account: lane.account }) }), element("span", { class: "chip" })),
    gauge("window"), gauge("day"), element("p", { class: "note" }), element("p", { class: "note" }), pauseButton(lane.account));
}

function pauseButton(account) {
  const button = element("button", { type: "button", class: "quiet small-button" });
  button.addEventListener("click", () => act(button, () => (button.dataset.does === "resume" ? resumeAccount : pauseAccount)(account)));
  return button;
}

function fillPauseButton(button, lane, isReadOnly) {
  const isPaused = lane.pause === BY_PERSON;
  button.hidden = isReadOnly || Boolean(lane.replica); // the replica that polls it can pause it
  setData(button, "does", isPaused ? "resume" : "pause");
  setText(button, isPaused ? "Resume" : "Pause");
  button.setAttribute("aria-label", `${isPaused ? "Resume" : "Pause"} account ${lane.account}`);
}

function fillGauge(node, { hidden, name, used, limit, text }) {
  node.hidden = hidden;
  if (hidden) return;
  const [label, meter] = node.children;
  setText(label.children[0], name);
  setText(label.children[1], text);
  const filled = Math.min(1, used / Math.max(1, limit));
  meter.setAttribute("aria-label", name);
  meter.setAttribute("aria-valuemax", limit);
  meter.setAttribute("aria-valuenow", Math.min(used, limit));
  meter.setAttribute("aria-valuetext", text);
  setData(meter, "tone", filled > 0.95 ? "full" : "");
  const width = `${100 * filled}%`;
  if (meter.firstChild.style.width !== width) meter.firstChild.style.width = width;
}

function fillLane(node, lane, now, isReadOnly) {
  const [head, windowGauge, dayGauge, note, dayNote, button] = node.children;
  fillPauseButton(button, lane, isReadOnly);
  setText(head.children[0], lane.account);
  const { reading, pause, due_at: dueAt } = lane;
  const tone = pause ? (lane.needs_person ? "bad" : "warn") : "good";
  const isStarting = lane.imports?.unstarted && !lane.imports.trial;
  const isIdle = !pause && !isStarting && (dueAt === null || dueAt - now > 5);
  setText(head.children[1], pause ? pause.replaceAll("_", " ") : isIdle ? "waiting" : "working");
  setData(head.children[1], "tone", isIdle ? "quiet" : tone);
  for (const part of [windowGauge, dayGauge, note, dayNote]) part.hidden = !reading;
  if (!reading) return setText(head.children[1], pause ? pause.replaceAll("_", " ") : "");
  fillGauge(windowGauge, {
    name: `Requests in ${duration(reading.window_s)}`, used: reading.window_used, limit: reading.window_limit,
    text: `${count(reading.window_used)} of ${count(reading.window_limit)}`,
  });
  const usable = reading.daily_usable ?? 0;
  const used = Math.max(0, usable - (reading.daily_left ?? 0));
  fillGauge(dayGauge, {
    hidden: reading.daily_left === null || !usable, name: "Requests today, by all apps", used, limit: usable, text: `${count(used)} of ${count(usable)}`,
  });
  const failed = reading.errors ? `, ${share(reading.errors, reading.requests)} failed` : "";
  const due = dueAt !== null && dueAt - now > 5 && !pause ? ` Next poll at ${at(dueAt, now, { seconds: true })}.` : "";
  const rows = lane.imports ? ` ${plural(lane.imports.unstarted, "row")} to start, ${count(lane.imports.underway)} under way.` : "";
  setText(note, `${plural(reading.requests, "request")} in this run${failed}.${rows}${due}${lane.replica ? ` Polled by ${lane.replica}.` : ""}`);
  dayNote.hidden = dayGauge.hidden;
  setText(dayNote, `The quota's next day begins: ${at(reading.resets_at, now)}.`);
}
