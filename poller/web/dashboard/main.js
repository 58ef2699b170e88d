// Keeps one stream of overviews open while the page is seen, and shows each. All foreign text goes in as text.

import { bands, drawPace, drawSpread, spans } from "./draw.js";
import { at, count, duration, KINDS, plural, rate, ref, share, span, STATES } from "./words.js";

const STREAM = "/v1/overview/stream";
const SILENT_S = 10; // events come every two seconds
const WAITS_S = [1, 2, 4, 8, 15];
const AFTER_THE_END_S = 30; // the next run may take the same address
const SHOWN_REASONS = 8; // of the twelve that come
const KEPT_TOKEN = "poller-token";

const $ = (id) => document.getElementById(id);
const page = { latest: null, heardAt: null, ended: false, readOut: null };

// --- small steps on the document: nothing that stays the same is touched, so nothing flickers

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  const text = String(value);
  if (node.dataset[name] !== text) node.dataset[name] = text;
}

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Make the children of `host` match `items`, each known by its key; `make` builds one, `fill` brings it up to date.
function match(host, items, { key, make, fill }) {
  const known = new Map([...host.children].map((node) => [node.dataset.key, node]));
  items.forEach((item, index) => {
    const name = String(key(item, index));
    let node = known.get(name);
    known.delete(name);
    if (!node) {
      node = make(item);
      node.dataset.key = name;
    }
    if (host.children[index] !== node) host.insertBefore(node, host.children[index] ?? null);
    fill(node, item, index);
  });
  for (const node of known.values()) node.remove();
}

// A table with a caption for those who cannot see its place; the first column names the row, numbers stand right.
function table(host, caption, columns, rows) {
  if (!host.tHead) {
    const heads = columns.map((column) => element("th", { scope: "col", role: "columnheader", class: column.text ? "" : "number" }, column.name));
    host.setAttribute("role", "table"); // said aloud, as a narrow screen lays the cells out otherwise
    host.append(element("caption", { class: "unseen" }, caption),
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), element("tbody", { role: "rowgroup" }));
  }
  match(host.tBodies[0], rows, {
    key: (row) => row.key,
    make: () => element("tr", { role: "row" }, ...columns.map((column, index) =>
      index === 0 ? element("th", { scope: "row", role: "rowheader" })
        : element("td", { role: "cell", class: column.text ? "" : "number", "data-name": column.name }))),
    fill: (node, row) => columns.forEach((column, index) => {
      say(node.cells[index], String(column.cell(row)));
      mark(node.cells[index], "tone", column.tone?.(row) ?? "");
    }),
  });
}

// --- the parts of the page

function showDone({ counts, kinds }) {
  const { finished, known } = counts;
  say($("done-share"), known ? share(finished, known) : "ready");
  say($("done-text"), known
    ? `${count(finished)} of ${count(known)}${counts.is_all ? "" : " so far"} ${known === 1 ? "task has its outcome" : "tasks have their outcome"}`
    : "no task has been fed yet");
  const bar = $("bar");
  bar.setAttribute("aria-valuenow", known ? Math.floor((100 * finished) / known) : 0);
  bar.setAttribute("aria-valuetext", `${count(finished)} of ${count(known)}`);
  const seen = kinds.filter((each) => each.count);
  match(bar, seen, {
    key: (each) => each.kind,
    make: (each) => element("span", { class: `fill kind-${each.kind}` }),
    fill: (node, each) => {
      const width = `${(100 * each.count) / known}%`;
      if (node.style.width !== width) node.style.width = width;
    },
  });
  const parts = [...seen, ...(counts.waiting ? [{ kind: "waiting", count: counts.waiting }] : [])];
  match($("kinds"), parts, {
    key: (each) => each.kind,
    make: (each) => element("li", {},
      element("span", { class: `swatch kind-${each.kind}`, "aria-hidden": "true" }),
      element("span", { class: "name" }, KINDS[each.kind] ?? each.kind),
      element("span", { class: "n" })),
    fill: (node, each) => {
      say(node.children[2], count(each.count));
      node.title = share(each.count, known);
    },
  });
}

function whenItEnds({ forecast, now, counts, lanes, started_at: startedAt }) {
  const { word } = forecast;
  const midnights = forecast.quota_days > 1 ? `${count(forecast.quota_days)} of the account's midnights` : "the account's midnight";
  const quota = forecast.quota_days ? ` Today's quota is not enough: it has to wait for ${midnights}.` : "";
  if (!counts.known) return ["–", "a forecast comes with the first tasks"];
  if (word === "done") return ["done", `every task has its outcome, ${duration(now - startedAt)} after the start`];
  if (word === "open") return ["nothing to do", "every task so far has its outcome; more may be fed"];
  if (word === "blocked") return ["no forecast", "an account is paused, and nobody knows for how long"];
  if (word === "soon") {
    const latest = forecast.latest_at ? `; at the latest ${at(forecast.latest_at, now)}, when what is left times out` : "";
    return [`after ${at(forecast.earliest_at, now)}`, `too few outcomes lately for a forecast; the limit allows no sooner${latest}.${quota}`];
  }
  const left = forecast.at - now;
  const unsure = forecast.latest_at - forecast.earliest_at > Math.max(120, 0.15 * left);
  const range = unsure ? ` (${span(forecast.earliest_at, forecast.latest_at, now)})` : "";
  const paused = lanes.some((lane) => lane.pause) ? ", once the pause is over" : "";
  return [
    `about ${at(forecast.at, now)}`,
    `in ${duration(left)}${range}, at the recent pace${paused}${counts.is_all ? "" : ", if nothing more is fed"}.${quota}`,
  ];
}

function showWhen(overview) {
  const [when, why] = whenItEnds(overview);
  say($("when"), when);
  say($("when-why"), why);
}

function notices(overview) {
  const { now, lanes, sinks, warning, state, counts } = overview;
  const all = [];
  if (warning) {
    all.push({ key: "warning", tone: "bad", title: "One reason dominates", text: warningText(warning) });
  }
  for (const lane of lanes.filter((each) => each.pause)) {
    const until = lane.resume_at ? ` Until about ${at(lane.resume_at, now, { seconds: lane.resume_at - now < 120 })}.` : "";
    const which = lanes.length > 1 ? `Account ${lane.account} is paused` : "Paused";
    all.push({
      key: `lane ${lane.account}`, tone: lane.is_stuck ? "bad" : "warn", title: `${which}: ${lane.pause.replaceAll("_", " ")}`,
      text: `${sentence(lane.says)}${until}${lane.detail ? ` ${sentence(lane.detail)}` : ""}`,
    });
  }
  for (const sink of sinks.filter((each) => each.state !== "ok")) {
    const what = sink.state === "stopped" ? "has stopped, and a person must act" : "takes nothing now; it is tried again";
    all.push({ key: `sink ${sink.name}`, tone: sink.state === "stopped" ? "bad" : "warn", title: `${sink.name} ${what}`, text: sentence(sink.reason) });
  }
  if (state === "draining") {
    all.push({ key: "draining", tone: "warn", title: "Stopping", text: "What is in flight is finished; run the same command again to go on." });
  }
  if (counts.rejected) {
    all.push({ key: "rejected", tone: "quiet", title: `${plural(counts.rejected, "input line")} rejected`, text: "Each with its reason: poller status --rejected" });
  }
  return all;
}

function sentence(text) {
  if (!text) return "";
  const begun = /^[a-z]+[ ,]/.test(text) ? text[0].toUpperCase() + text.slice(1) : text; // not what may be a name
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

function warningText({ reason, count: number, outcomes, share: part, samples }) {
  return `${sentence(reason)} ${count(number)} of the latest ${plural(outcomes, "outcome")}, ${share(part, 1)}; such as ${samples.join(", ")}.`;
}

function showNotices(overview) {
  match($("notices"), notices(overview), {
    key: (each) => each.key,
    make: () => element("div", { class: "notice" }, element("strong"), element("span")),
    fill: (node, each) => {
      mark(node, "tone", each.tone);
      say(node.children[0], each.title);
      say(node.children[1], each.text);
    },
  });
}

function showPace({ pace }) {
  const drawn = spans(pace);
  const last = drawn.all.slice(-Math.ceil(60 / drawn.seconds));
  const mean = (key) => last.reduce((sum, each) => sum + each[key], 0) / Math.max(1, last.length);
  page.readOut = last.length ? `${rate(mean("finished"))} outcomes, ${rate(mean("polls"))} polls per second` : "";
  say($("pace-now"), page.readOut);
  $("legend-paused").hidden = !drawn.all.some((each) => each.paused);
  redraw($("pace-chart"), `${pace.end_at} ${pace.polls.length}`, (host) =>
    drawPace(host, drawn, (text) => say($("pace-now"), text ?? page.readOut)));
  table($("pace-table"), "Pace, the latest first", [
    { name: "from", text: true, cell: (span) => at(span.end_at - span.seconds, pace.end_at, { seconds: drawn.seconds < 60 }) },
    { name: "outcomes per s", cell: (span) => rate(span.finished) },
    { name: "polls per s", cell: (span) => rate(span.polls) },
    { name: "", text: true, cell: (span) => (span.paused ? "paused" : "") },
  ], drawn.all.map((span, index) => ({ ...span, key: drawn.all.length - index })).reverse());
}

function showTook({ took, late }) {
  const all = bands(took);
  say($("took-now"), took.total ? `half under ${duration(took.half_s)}, 95 % under ${duration(took.most_s)}` : "");
  const seen = late.total ? ` Half of the outcomes were seen within ${duration(late.half_s)} of the import's end.` : "";
  say($("took-note"), took.total ? `From request to completion, as HubSpot tells: ${plural(took.total, "import")}.${seen}` : "");
  redraw($("took-chart"), `${took.total}`, (host) => drawSpread(host, took, all));
  table($("took-table"), "How long imports take", [
    { name: "took", text: true, cell: (band) => band.name },
    { name: "imports", cell: (band) => count(band.count) },
    { name: "share", cell: (band) => share(band.count, took.total) },
  ], all.map((band) => ({ ...band, key: band.low })));
}

function showLanes({ lanes, counts, now }) {
  const cost = $("cost");
  cost.hidden = !counts.polls_per_task;
  if (!cost.hidden) say(cost, `${counts.polls_per_task.toFixed(2)} polls per outcome`);
  match($("lanes"), lanes, { key: (lane) => lane.account, make: makeLane, fill: (node, lane) => fillLane(node, lane, now) });
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
  const [words, meter] = node.children;
  say(words.children[0], name);
  say(words.children[1], text);
  const filled = Math.min(1, used / Math.max(1, limit));
  meter.setAttribute("aria-label", name);
  meter.setAttribute("aria-valuemax", limit);
  meter.setAttribute("aria-valuenow", Math.min(used, limit));
  meter.setAttribute("aria-valuetext", text);
  mark(meter, "tone", filled > 0.95 ? "full" : "");
  const width = `${100 * filled}%`;
  if (meter.firstChild.style.width !== width) meter.firstChild.style.width = width;
}

function fillLane(node, lane, now) {
  const [head, windowGauge, dayGauge, note, dayNote] = node.children;
  say(head.children[0], lane.account);
  const tone = lane.pause ? (lane.is_stuck ? "bad" : "warn") : "good";
  const idle = !lane.pause && (lane.due_at === null || lane.due_at - now > 5);
  say(head.children[1], lane.pause ? lane.pause.replaceAll("_", " ") : idle ? "waiting" : "at work");
  mark(head.children[1], "tone", idle ? "quiet" : tone);
  fillGauge(windowGauge, {
    name: `Requests in ${duration(lane.window_s)}`, used: lane.used, limit: lane.limit, text: `${count(lane.used)} of ${count(lane.limit)}`,
  });
  const usable = lane.daily_usable ?? 0;
  const used = Math.max(0, usable - (lane.daily_left ?? 0));
  fillGauge(dayGauge, {
    hidden: lane.daily_left === null || !usable, name: "Requests today, by all apps", used, limit: usable, text: `${count(used)} of ${count(usable)}`,
  });
  const errors = lane.errors ? `, ${share(lane.errors, lane.requests)} told nothing` : "";
  const due = lane.due_at !== null && lane.due_at - now > 5 && !lane.pause ? ` Next poll of ${at(lane.due_at, now, { seconds: true })}.` : "";
  say(note, `${plural(lane.requests, "request")} in this run${errors}.${due}`);
  dayNote.hidden = dayGauge.hidden;
  say(dayNote, `A new day begins for the quota ${at(lane.resets_at, now)}.`);
}

function showReasons({ reasons, counts }) {
  $("reasons-empty").hidden = reasons.length > 0;
  say($("reasons-empty"), counts.finished ? "Every outcome so far is plainly complete." : "Here stands why tasks are not complete, once some are not.");
  const sum = reasons.reduce((total, each) => total + each.count, 0);
  say($("reasons-now"), reasons.length ? `${count(sum)} outcomes, ${share(sum, counts.finished)}` : "");
  const most = Math.max(1, ...reasons.map((each) => each.count));
  const more = reasons.length - SHOWN_REASONS;
  $("reasons-more").hidden = more <= 0;
  say($("reasons-more"), more > 0 ? `${more >= 4 ? "Rarer ones" : plural(more, "rarer one")}: poller report` : "");
  match($("reasons"), reasons.slice(0, SHOWN_REASONS), {
    key: (each) => each.reason,
    make: () => element("li", {}, element("details", {},
      element("summary", {}, element("span", { class: "reason" }), element("span", { class: "n" })),
      element("ul", { class: "samples" })), element("div", { class: "weight", "aria-hidden": "true" }, element("span", { class: "fill" }))),
    fill: (node, each) => {
      const [details, weight] = node.children;
      const [name, n] = details.firstChild.children;
      say(name, each.reason);
      say(n, `${count(each.count)} · ${share(each.count, counts.finished)}`);
      const width = `${(100 * each.count) / most}%`;
      if (weight.firstChild.style.width !== width) weight.firstChild.style.width = width;
      weight.firstChild.className = `fill kind-${each.kind ?? "unknown"}`;
      match(details.lastChild, each.samples.length ? each.samples : [{ account: "", task_id: "", none: true }], {
        key: (sample) => `${sample.account} ${sample.task_id}`,
        make: () => element("li", {}, element("code"), " ", element("span", { class: "ref" })),
        fill: (line, sample) => {
          say(line.children[0], sample.task_id);
          say(line.children[1], sample.none ? "No samples of this run; poller report has them." : sampleText(sample));
        },
      });
    },
  });
}

function sampleText(sample) {
  return [ref(sample.ref), sample.correlation_id && `correlation id ${sample.correlation_id}`].filter(Boolean).join("   ");
}

function showSinks({ sinks }) {
  const words = { ok: "", failing: ", tried again", stopped: ", stopped" };
  table($("sinks-table"), "What each sink has", [
    { name: "sink", text: true, cell: (sink) => sink.name + words[sink.state], tone: (sink) => ({ ok: "", failing: "warn", stopped: "bad" })[sink.state] },
    { name: "delivered", cell: (sink) => count(sink.delivered) },
    { name: "behind", cell: (sink) => count(sink.behind), tone: (sink) => (sink.state === "ok" ? "" : "warn") },
    { name: "dead", cell: (sink) => count(sink.dead), tone: (sink) => (sink.dead ? "bad" : "") },
  ], sinks.map((sink) => ({ ...sink, key: sink.name })));
}

function showSources({ sources }) {
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

function showFoot({ counts, version, started_at: startedAt, now, troubles }) {
  const told = troubles.length ? ` Polls that told nothing: ${troubles.map((each) => `${each.reason} ${count(each.count)}`).join(", ")}.` : "";
  say($("foot"), `poller ${version}, at work since ${at(startedAt, now)}: ${plural(counts.polls, "poll")} in this run.${told}`);
}

const drawings = new Map(); // what was drawn last into each host

function redraw(host, state, draw) {
  const fresh = `${state} ${host.clientWidth} ${host.clientHeight}`;
  if (drawings.get(host) === fresh || !host.clientWidth) return;
  drawings.set(host, fresh);
  draw(host);
}

function show(overview) {
  const [word, tone] = page.ended && overview.state !== "finished" ? ["stopped", "warn"] : STATES[overview.state] ?? [overview.state, "quiet"];
  say($("state"), word);
  mark($("state"), "tone", tone);
  const { finished, known } = overview.counts;
  say(document.querySelector("title"), known ? `${share(finished, known)} ${word} – poller` : `${word} – poller`);
  for (const part of [showDone, showWhen, showNotices, showPace, showLanes, showTook, showReasons, showSinks, showSources, showFoot]) part(overview);
}

// --- the connection

function tellLine(tone, text) {
  mark($("line"), "tone", tone);
  say($("line-text"), text);
}

function heard(event, text) {
  page.latest = JSON.parse(text);
  page.heardAt = page.latest.now;
  page.ended = event === "end";
  show(page.latest);
  if (page.ended) tellLine("quiet", `the run has ended, ${at(page.heardAt, page.heardAt, { seconds: true })}`);
  else tellLine("good", `live, as of ${at(page.heardAt, page.heardAt, { seconds: true })}`);
}

// Read server-sent events; each arrival puts off the moment at which the silence counts as lost.
async function listen(controller) {
  const token = sessionStorage.getItem(KEPT_TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let isSilent = false;
  const giveUp = () => {
    isSilent = true;
    controller.abort();
  };
  let timer = setTimeout(giveUp, SILENT_S * 1000);
  try {
    const response = await fetch(STREAM, { headers, cache: "no-store", signal: controller.signal });
    if (response.status === 401) return "token";
    if (!response.ok) return `it answers ${response.status}`;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let pending = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return "it closed the connection";
      clearTimeout(timer);
      timer = setTimeout(giveUp, SILENT_S * 1000);
      const events = (pending + value).split("\n\n");
      pending = events.pop();
      for (const event of events) {
        const name = /^event: (.*)$/m.exec(event)?.[1] ?? "";
        const data = /^data: (.*)$/m.exec(event)?.[1];
        if (data) heard(name, data);
      }
    }
  } catch {
    return isSilent ? "it is silent" : "it does not answer";
  } finally {
    clearTimeout(timer);
  }
}

function askForToken() {
  const refused = sessionStorage.getItem(KEPT_TOKEN) !== null;
  sessionStorage.removeItem(KEPT_TOKEN);
  tellLine("warn", "a token is needed");
  if (refused) say($("ask-why"), "That token was refused. Try again:");
  return new Promise((resolve) => {
    $("ask-form").onsubmit = () => {
      sessionStorage.setItem(KEPT_TOKEN, $("token").value.trim());
      $("token").value = "";
      resolve();
    };
    $("ask").oncancel = (event) => event.preventDefault();
    if (!$("ask").open) $("ask").showModal();
  });
}

// Wait so long, or until the page is seen again or the browser is back on the net.
function rest(seconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    const wake = () => { clearTimeout(timer); resolve(); };
    window.addEventListener("online", wake, { once: true });
    document.addEventListener("visibilitychange", wake, { once: true });
  });
}

const seen = () => new Promise((resolve) => {
  if (!document.hidden) return resolve();
  const poll = () => {
    if (document.hidden) return;
    document.removeEventListener("visibilitychange", poll);
    resolve();
  };
  document.addEventListener("visibilitychange", poll);
});

async function stay() {
  let failures = 0;
  for (;;) {
    await seen();
    const before = page.heardAt;
    const controller = new AbortController();
    const pause = () => { if (document.hidden) controller.abort(); };
    document.addEventListener("visibilitychange", pause);
    const why = await listen(controller);
    document.removeEventListener("visibilitychange", pause);
    if (document.hidden) {
      tellLine("quiet", "paused while this tab is hidden");
      continue;
    }
    if (why === "token") {
      await askForToken();
      continue;
    }
    failures = page.heardAt === before ? failures + 1 : 0;
    if (!page.ended) lost(why);
    await rest(page.ended ? AFTER_THE_END_S : WAITS_S[Math.min(failures, WAITS_S.length - 1)]);
  }
}

function lost(why) {
  const since = page.heardAt ? `; what you see is of ${at(page.heardAt, Date.now() / 1000, { seconds: true })}` : "";
  tellLine("bad", `no connection: ${why}${since}. Trying again …`);
  say($("state"), page.latest ? "out of sight" : "not reached");
  mark($("state"), "tone", "bad");
}

new ResizeObserver(() => page.latest && show(page.latest)).observe($("main"));
stay();
