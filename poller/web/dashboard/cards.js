// The cards of the overview: each function shows its part.

import { $, setText, table } from "./dom.js";
import { showDone, showWhen } from "./headline.js";
import { showHosts } from "./hosts.js";
import { showLanes } from "./lanes.js";
import { showNotices } from "./notices.js";
import { drawPace, pausedText, spans } from "./pace-chart.js";
import { showReasons } from "./reasons.js";
import { bands, drawSpread } from "./spread-chart.js";
import { at, atMost, count, plural, rate, share } from "./text.js";

function showPace({ pace, ledger }) {
  const drawn = spans(pace);
  const last = drawn.all.slice(-Math.ceil(60 / drawn.seconds));
  const mean = (key) => last.reduce((sum, each) => sum + each[key], 0) / Math.max(1, last.length);
  const latest = `${rate(mean("finished"))} outcomes, ${rate(mean("polls"))} ${drawn.word} per second`;
  const read = pace.finished.reduce((sum, each) => sum + each, 0); // of a state: little by little, without those past retention
  const which = read < ledger.finished ? `${count(read)} of ${count(ledger.finished)}` : "all of this state";
  setText($("pace-now"), !last.length ? "" : drawn.hasPolls ? latest : `outcomes per second, by when they were seen: ${which}`);
  $("legend-polls").hidden = !drawn.hasPolls;
  setText($("legend-polls").lastChild, drawn.word);
  $("legend-paused").hidden = !drawn.all.some((each) => each.paused);
  redraw($("pace-chart"), `${pace.end_at} ${pace.finished.length}`, (host) => drawPace(host, drawn));
  table($("pace-table"), "Pace, the latest first", [
    { name: "from", text: true, cell: (span) => at(span.end_at - span.seconds, pace.end_at, { seconds: drawn.seconds < 60 }) },
    { name: "outcomes per s", cell: (span) => rate(span.finished) },
    ...(drawn.hasPolls ? [{ name: `${drawn.word} per s`, cell: (span) => rate(span.polls) }] : []),
    { name: "pauses", text: true, cell: (span) => (span.paused ? pausedText(span.paused) : "") },
  ], drawn.all.map((span, index) => ({ ...span, key: drawn.all.length - index })).reverse());
}

function showTook({ took, late, ledger }) {
  const all = bands(took);
  const which = ledger.waiting ? "of those finished so far: " : ""; // the longest imports are still missing
  setText($("took-now"), took.total ? `${which}half under ${atMost(took.median_s)}, 95 % under ${atMost(took.p95_s)}` : "");
  const seen = late.total ? ` Half of the outcomes were seen within ${atMost(late.median_s)} of the import's end.` : "";
  setText($("took-note"), took.total ? `From request to completion, by HubSpot's clock: ${plural(took.total, "import")}.${seen}` : "");
  redraw($("took-chart"), `${took.total}`, (host) => drawSpread(host, took, all));
  table($("took-table"), "How long imports take", [
    { name: "took", text: true, cell: (band) => band.name },
    { name: "imports", cell: (band) => count(band.count) },
    { name: "share", cell: (band) => share(band.count, took.total) },
  ], all.map((band) => ({ ...band, key: band.low })));
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

function showFleet({ fleet }) {
  $("fleet").hidden = !fleet;
  if (!fleet) return;
  const { members, unowned } = fleet;
  setText($("fleet-now"), `${plural(members.length, "replica")}${unowned.length ? `, ${plural(unowned.length, "account")} without one` : ""}`);
  const stateOf = (each) => (each.is_draining ? "stopping" : each.is_stale ? "no news" : each.is_this ? "this page" : "at work");
  table($("fleet-table"), "Which replica does what", [
    { name: "replica", text: true, cell: (each) => each.replica },
    { name: "state", text: true, cell: stateOf, tone: (each) => (each.is_stale || each.is_draining ? "warn" : "") },
    { name: "accounts", cell: (each) => count(each.accounts) },
    { name: "polls per s", cell: (each) => (each.polls_per_s === null ? "" : rate(each.polls_per_s)) },
    { name: "sinks", text: true, cell: (each) => each.sinks.join(", ") },
    { name: "page", text: true, cell: (each) => each.url ?? "" },
    { name: "process", text: true, cell: (each) => `${each.pid} on ${each.host}` },
  ], members.map((each) => ({ ...each, key: each.replica })));
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

export const cards = [showDone, showWhen, showNotices, showPace, showLanes, showTook, showReasons, showSinks, showFleet, showHosts, showSources, showFoot];
