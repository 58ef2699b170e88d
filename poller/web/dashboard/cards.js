// The cards of the page: each function shows its part of an overview.

import { bands, drawPace, drawSpread, spans } from "./charts.js";
import { $, element, setData, setText, table, update } from "./dom.js";
import { at, count, duration, KINDS, plural, rate, ref, share, span } from "./text.js";

const SHOWN_REASONS = 8; // of the twelve that come

function showDone({ ledger, is_fed: isFed }) {
  const { finished, tasks } = ledger;
  setText($("done-share"), tasks ? share(finished, tasks) : "ready");
  setText($("done-text"), tasks
    ? `${count(finished)} of ${plural(tasks, "task")}${isFed ? "" : " so far"} ${tasks === 1 ? "has its" : "have their"} outcome`
    : "no task has been fed yet");
  const bar = $("bar");
  bar.setAttribute("aria-valuenow", tasks ? Math.floor((100 * finished) / tasks) : 0);
  bar.setAttribute("aria-valuetext", `${count(finished)} of ${count(tasks)}`);
  const seen = Object.entries(ledger.kinds).map(([kind, n]) => ({ kind, count: n })).filter((each) => each.count);
  update(bar, seen, {
    key: (each) => each.kind,
    make: (each) => element("span", { class: `fill kind-${each.kind}` }),
    fill: (node, each) => {
      const width = `${(100 * each.count) / tasks}%`;
      if (node.style.width !== width) node.style.width = width;
    },
  });
  const parts = [...seen, ...(ledger.waiting ? [{ kind: "waiting", count: ledger.waiting }] : [])];
  update($("kinds"), parts, {
    key: (each) => each.kind,
    make: (each) => element("li", {},
      element("span", { class: `swatch kind-${each.kind}`, "aria-hidden": "true" }),
      element("span", { class: "name" }, KINDS[each.kind] ?? each.kind),
      element("span", { class: "n" })),
    fill: (node, each) => {
      setText(node.children[2], count(each.count));
      node.title = share(each.count, tasks);
    },
  });
}

function whenItEnds({ forecast, now, ledger, is_fed: isFed, lanes, started_at: startedAt }) {
  const { state } = forecast;
  const midnights = forecast.quota_days > 1 ? `${count(forecast.quota_days)} of the account's midnights` : "the account's midnight";
  const quota = forecast.quota_days ? ` Today's quota is not enough: the run waits for ${midnights}.` : "";
  if (!ledger.tasks) return ["–", "a forecast comes with the first tasks"];
  if (state === "done") return ["done", `every task has its outcome, ${duration(now - startedAt)} after the start`];
  if (state === "open") return ["nothing to do", "every task so far has its outcome; more may be fed"];
  if (state === "blocked") return ["no forecast", "an account is paused or has no requests left, and the end of that is not known"];
  if (state === "too_early") {
    const latest = forecast.latest_at ? `; at the latest ${at(forecast.latest_at, now)}, when the remaining tasks time out` : "";
    return [`after ${at(forecast.earliest_at, now)}`, `too few recent outcomes for a forecast; the rate limit allows no earlier end${latest}.${quota}`];
  }
  const left = forecast.at - now;
  const isWide = forecast.latest_at - forecast.earliest_at > Math.max(120, 0.15 * left);
  const range = isWide ? ` (${span(forecast.earliest_at, forecast.latest_at, now)})` : "";
  const paused = lanes.some((lane) => lane.pause) ? ", once the pause is over" : "";
  return [
    `about ${at(forecast.at, now)}`,
    `in ${duration(left)}${range}, at the recent pace${paused}${isFed ? "" : ", if nothing more is fed"}.${quota}`,
  ];
}

function showWhen(overview) {
  const [when, why] = whenItEnds(overview);
  setText($("when"), when);
  setText($("when-why"), why);
}

function notices(overview) {
  const { now, lanes, ledger, refusals, sinks, store, warning, state, rejected } = overview;
  const all = [];
  if (!store.ready) {
    all.push({ key: "store", tone: "bad", title: "The state cannot be written", text: "It does not answer, or its disk is full; nothing is acknowledged until it can. The log names the reason." });
  }
  if (warning) {
    all.push({ key: "warning", tone: "bad", title: "One reason dominates", text: warningText(warning) });
  }
  for (const lane of lanes.filter((each) => each.pause)) {
    const { pause, pause_detail: detail, resume_at: resumeAt } = lane;
    const until = resumeAt ? ` Until about ${at(resumeAt, now, { seconds: resumeAt - now < 120 })}.` : "";
    const which = lanes.length > 1 ? `Account ${lane.account} is paused` : "Paused";
    all.push({
      key: `lane ${lane.account}`, tone: lane.needs_person ? "bad" : "warn", title: `${which}: ${pause.replaceAll("_", " ")}`,
      text: `${sentence(lane.meaning)}${until}${detail ? ` ${sentence(detail)}` : ""}`,
    });
  }
  for (const [name, sink] of Object.entries(sinks).filter(([, each]) => each.state !== "delivering")) {
    const isStopped = sink.state === "stopped";
    const what = isStopped ? "has stopped, and a person must act" : "is failing; the poller retries";
    all.push({ key: `sink ${name}`, tone: isStopped ? "bad" : "warn", title: `${name} ${what}`, text: sentence(sink.detail) });
  }
  for (const { name, dead } of ledger.sinks.filter((each) => each.dead)) {
    const latest = refusals[name] ? `The latest: ${sentence(refusals[name])} ` : "";
    all.push({
      key: `dead ${name}`, tone: "warn", title: `${name} refused ${plural(dead, "record")} for good`,
      text: `${latest}To list them with their reasons: poller status --dead. To deliver them again: poller replay --dead`,
    });
  }
  if (state === "draining") {
    all.push({ key: "draining", tone: "warn", title: "Stopping", text: "Requests in flight are finished. Run the same command again to continue." });
  }
  if (rejected) {
    all.push({ key: "rejected", tone: "quiet", title: `${plural(rejected, "input line")} rejected`, text: "To list them with their reasons: poller status --rejected" });
  }
  return all;
}

function sentence(text) {
  if (!text) return "";
  const begun = /^[a-z]+[ ,]/.test(text) ? text[0].toUpperCase() + text.slice(1) : text; // a name stays as it is
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

function warningText({ reason, count: number, outcomes, share: part, samples }) {
  return `${sentence(reason)} ${count(number)} of the latest ${plural(outcomes, "outcome")}, ${share(part, 1)}; for example ${samples.join(", ")}.`;
}

function showNotices(overview) {
  update($("notices"), notices(overview), {
    key: (each) => each.key,
    make: () => element("div", { class: "notice" }, element("strong"), element("span")),
    fill: (node, each) => {
      setData(node, "tone", each.tone);
      setText(node.children[0], each.title);
      setText(node.children[1], each.text);
    },
  });
}

function showPace({ pace }) {
  const drawn = spans(pace);
  const last = drawn.all.slice(-Math.ceil(60 / drawn.seconds));
  const mean = (key) => last.reduce((sum, each) => sum + each[key], 0) / Math.max(1, last.length);
  const meanPace = last.length ? `${rate(mean("finished"))} outcomes, ${rate(mean("polls"))} polls per second` : "";
  setText($("pace-now"), meanPace);
  $("legend-paused").hidden = !drawn.all.some((each) => each.paused);
  redraw($("pace-chart"), `${pace.end_at} ${pace.polls.length}`, (host) =>
    drawPace(host, drawn, (text) => setText($("pace-now"), text ?? meanPace)));
  table($("pace-table"), "Pace, the latest first", [
    { name: "from", text: true, cell: (span) => at(span.end_at - span.seconds, pace.end_at, { seconds: drawn.seconds < 60 }) },
    { name: "outcomes per s", cell: (span) => rate(span.finished) },
    { name: "polls per s", cell: (span) => rate(span.polls) },
    { name: "", text: true, cell: (span) => (span.paused ? "paused" : "") },
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
  const stateOf = (sink) => sinks[sink.name].state;
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

function showFoot({ polls, version, started_at: startedAt, now, failed_polls: failures }) {
  const failed = failures.length ? ` Failed polls: ${failures.map((each) => `${each.reason} ${count(each.count)}`).join(", ")}.` : "";
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
