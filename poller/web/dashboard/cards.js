// The cards of the overview: each function shows its part.

import { $, element, setData, setText, table, update } from "./dom.js";
import { showDone, showWhen } from "./headline.js";
import { showNotices } from "./notices.js";
import { drawPace, pausedText, spans } from "./pace-chart.js";
import { bands, drawSpread } from "./spread-chart.js";
import { at, count, duration, plural, rate, ref, share } from "./text.js";

const SHOWN_REASONS = 8; // of the twelve that come

function showPace({ pace }) {
  const drawn = spans(pace);
  const last = drawn.all.slice(-Math.ceil(60 / drawn.seconds));
  const mean = (key) => last.reduce((sum, each) => sum + each[key], 0) / Math.max(1, last.length);
  const latest = `${rate(mean("finished"))} outcomes, ${rate(mean("polls"))} polls per second`;
  setText($("pace-now"), !last.length ? "" : drawn.hasPolls ? latest : "all outcomes of this state, by when they were seen");
  $("legend-polls").hidden = !drawn.hasPolls;
  $("legend-paused").hidden = !drawn.all.some((each) => each.paused);
  redraw($("pace-chart"), `${pace.end_at} ${pace.finished.length}`, (host) => drawPace(host, drawn));
  table($("pace-table"), "Pace, the latest first", [
    { name: "from", text: true, cell: (span) => at(span.end_at - span.seconds, pace.end_at, { seconds: drawn.seconds < 60 }) },
    { name: "outcomes per s", cell: (span) => rate(span.finished) },
    ...(drawn.hasPolls ? [{ name: "polls per s", cell: (span) => rate(span.polls) }] : []),
    { name: "pauses", text: true, cell: (span) => (span.paused ? pausedText(span.paused) : "") },
  ], drawn.all.map((span, index) => ({ ...span, key: drawn.all.length - index })).reverse());
}

function showTook({ took, late, ledger }) {
  const all = bands(took);
  const which = ledger.waiting ? "of those finished so far: " : ""; // the longest imports are still missing
  setText($("took-now"), took.total ? `${which}half under ${duration(took.median_s)}, 95 % under ${duration(took.p95_s)}` : "");
  const seen = late.total ? ` Half of the outcomes were seen within ${duration(late.median_s)} of the import's end.` : "";
  setText($("took-note"), took.total ? `From request to completion, by HubSpot's clock: ${plural(took.total, "import")}.${seen}` : "");
  redraw($("took-chart"), `${took.total}`, (host) => drawSpread(host, took, all));
  table($("took-table"), "How long imports take", [
    { name: "took", text: true, cell: (band) => band.name },
    { name: "imports", cell: (band) => count(band.count) },
    { name: "share", cell: (band) => share(band.count, took.total) },
  ], all.map((band) => ({ ...band, key: band.low })));
}

function showLanes({ lanes, polls_per_task: pollsPerTask, now }) {
  const cost = $("cost");
  cost.hidden = !pollsPerTask;
  if (!cost.hidden) setText(cost, `${pollsPerTask.toFixed(2)} polls per outcome`);
  update($("lanes"), lanes, { key: (lane) => lane.account, make: makeLane, fill: (node, lane) => fillLane(node, lane, now) });
}

function gauge(name) {
  return element("div", { class: "gauge", "data-part": name },
    element("p", { class: "gauge-text" }, element("span"), element("span", { class: "n" })),
    element("div", { class: "meter", role: "meter", "aria-valuemin": "0" }, element("span", { class: "fill" })));
}

function makeLane() {
  return element("li", { class: "lane" },
    element("p", { class: "lane-name" }, element("strong"), element("span", { class: "chip" })),
    gauge("window"), gauge("day"), element("p", { class: "note" }), element("p", { class: "note" }));
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

function fillLane(node, lane, now) {
  const [head, windowGauge, dayGauge, note, dayNote] = node.children;
  setText(head.children[0], lane.account);
  const { reading, pause, due_at: dueAt } = lane;
  const tone = pause ? (lane.needs_person ? "bad" : "warn") : "good";
  const isIdle = !pause && (dueAt === null || dueAt - now > 5);
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
  setText(note, `${plural(reading.requests, "request")} in this run${failed}.${due}`);
  dayNote.hidden = dayGauge.hidden;
  setText(dayNote, `The quota's next day begins: ${at(reading.resets_at, now)}.`);
}

function showReasons({ reasons, ledger }) {
  $("reasons-empty").hidden = reasons.length > 0;
  setText($("reasons-empty"), ledger.finished ? "Every outcome so far is plainly complete." : "The reasons of tasks that are not complete appear here.");
  const sum = reasons.reduce((total, each) => total + each.count, 0);
  setText($("reasons-now"), reasons.length ? `${count(sum)} outcomes, ${share(sum, ledger.finished)}` : "");
  const most = Math.max(1, ...reasons.map((each) => each.count));
  const more = reasons.length - SHOWN_REASONS;
  $("reasons-more").hidden = more <= 0;
  setText($("reasons-more"), more > 0 ? `${more >= 4 ? "Rarer ones" : plural(more, "rarer one")}: poller report` : "");
  update($("reasons"), reasons.slice(0, SHOWN_REASONS), {
    key: (each) => each.reason,
    make: () => element("li", {}, element("details", {},
      element("summary", {}, element("span", { class: "reason" }), element("span", { class: "n" })),
      element("ul", { class: "samples" })), element("div", { class: "weight", "aria-hidden": "true" }, element("span", { class: "fill" }))),
    fill: (node, each) => {
      const [details, weight] = node.children;
      const [name, n] = details.firstChild.children;
      setText(name, each.reason);
      setText(n, `${count(each.count)} · ${share(each.count, ledger.finished)}`);
      const width = `${(100 * each.count) / most}%`;
      if (weight.firstChild.style.width !== width) weight.firstChild.style.width = width;
      weight.firstChild.className = `fill kind-${each.kind ?? "unknown"}`;
      update(details.lastChild, each.samples.length ? each.samples : [{ account: "", task_id: "", none: true }], {
        key: (sample) => `${sample.account} ${sample.task_id}`,
        make: () => element("li", {}, element("code"), " ", element("span", { class: "ref" })),
        fill: (line, sample) => {
          setText(line.children[0], sample.task_id);
          setText(line.children[1], sample.none ? "No samples in this run. To list them: poller report" : sampleText(sample));
        },
      });
    },
  });
}

function sampleText(sample) {
  return [ref(sample.ref), sample.correlation_id && `correlation id ${sample.correlation_id}`].filter(Boolean).join("   ");
}

function showSinks({ ledger, sinks }) {
  const states = { delivering: ["", ""], failing: [", retrying", "warn"], stopped: [", stopped", "bad"] };
  const stateOf = (sink) => sinks[sink.name]?.state ?? "delivering";
  table($("sinks-table"), "Where each sink's records are", [
    { name: "sink", text: true, cell: (sink) => sink.name + states[stateOf(sink)][0], tone: (sink) => states[stateOf(sink)][1] },
    { name: "delivered", cell: (sink) => count(sink.delivered) },
    { name: "undelivered", cell: (sink) => count(sink.undelivered), tone: (sink) => (stateOf(sink) === "delivering" ? "" : "warn") },
    { name: "dead", cell: (sink) => count(sink.dead), tone: (sink) => (sink.dead ? "bad" : "") },
  ], ledger.sinks.map((sink) => ({ ...sink, key: sink.name })));
}

function showSources({ ledger: { sources } }) {
  $("sources-empty").hidden = sources.length > 0;
  $("sources-table").hidden = !sources.length;
  table($("sources-table"), "Where each source's lines went", [
    { name: "source", text: true, cell: (source) => source.name + (source.ended ? "" : ", still open") },
    { name: "lines", cell: (source) => count(source.lines) },
    { name: "tasks", cell: (source) => count(source.tasks) },
    { name: "duplicates", cell: (source) => count(source.duplicates) },
    { name: "rejected", cell: (source) => count(source.rejected), tone: (source) => (source.rejected ? "bad" : "") },
    { name: "blank", cell: (source) => count(source.blank) },
  ], sources.map((source) => ({ ...source, key: source.name })));
}

function showFoot({ polls, version, started_at: startedAt, now, failed_polls: failures, is_read_only: isReadOnly, run }) {
  const failed = failures.length ? ` Failed polls: ${failures.map((each) => `${each.reason} ${count(each.count)}`).join(", ")}.` : "";
  if (isReadOnly) {
    const worker = run ? `process ${run.pid}: last heartbeat ${at(Date.parse(run.heartbeat_at) / 1000, now, { seconds: true })}` : "no process works on it";
    return setText($("foot"), `poller ${version}, for reading only: ${plural(polls, "poll")} in all; ${worker}.`);
  }
  setText($("foot"), `poller ${version}, running since ${at(startedAt, now)}: ${plural(polls, "poll")} in this run.${failed}`);
}

const drawings = new Map(); // by host: the data and size of its last drawing

function redraw(host, state, draw) {
  const fresh = `${state} ${host.clientWidth} ${host.clientHeight}`;
  if (drawings.get(host) === fresh || !host.clientWidth) return;
  drawings.set(host, fresh);
  draw(host);
}

export const cards = [showDone, showWhen, showNotices, showPace, showLanes, showTook, showReasons, showSinks, showSources, showFoot];
