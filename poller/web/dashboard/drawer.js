// The drawer of one task: what became of it, each poll with its answer, its deliveries, its row, its record.

import { getJson } from "./api.js";
import { $, element, setText } from "./dom.js";
import { current, go, withTask } from "./route.js";
import { fillOutcome, makeOutcome, nextText } from "./task-cells.js";
import { at, count, duration, refText } from "./text.js";

const drawer = $("task");
let asked = ""; // the task that the drawer is for
let changes = "";
let latest = null; // overview

async function load({ task_id: id, account }) {
  const path = `/v1/tasks/${encodeURIComponent(id)}${account ? `?account=${encodeURIComponent(account)}` : ""}`;
  try {
    const task = await getJson(path);
    if (asked === nameOf(current().task)) $("task-body").replaceChildren(...parts(task));
  } catch (error) {
    if (asked === nameOf(current().task)) $("task-body").replaceChildren(element("p", { class: "empty" }, error.message));
  }
}

const nameOf = (task) => (task ? `${task.account ?? ""} ${task.task_id}` : "");

// An instant of ours, or a text of HubSpot's that may be none.
function when(instant) {
  const seconds = Date.parse(instant) / 1000;
  return Number.isNaN(seconds) ? instant ?? "" : at(seconds, latest?.now ?? Date.now() / 1000, { seconds: true });
}

function parts(task) {
  const seen = task.row ? [] : [section("Polls", polls(task)), ...deliveries(task)];
  return [headline(task), facts(task), ...seen, ...raw("Your row", task.ref), ...raw("Start call", task.row?.body), ...raw("Record", task.record)];
}

const NO_FILE_YET = {
  waiting: "It waits for its outcome.",
  unstarted: "HubSpot has not accepted its import yet.",
  unsure: "The answer to its start was lost: HubSpot may have accepted it. Once that would show, it is sent again with HubSpot's duplicate check.",
};

function headline(task) {
  const outcome = makeOutcome();
  fillOutcome(outcome, task);
  const landed = task.landed === true ? "A file is there." : task.landed === false ? "No file is there." : NO_FILE_YET[task.state];
  const node = element("div", { class: "verdict" }, element("p", { class: "big" }, outcome), element("p", { class: "of" }, landed));
  if (task.reason) node.append(element("p", {}, task.reason));
  if (task.account_pause && task.state !== "finished") node.append(element("p", { "data-tone": "warn" }, `Its account is paused: ${task.account_pause.replaceAll("_", " ")}.`));
  return node;
}

function facts(task) {
  const record = task.record ?? {};
  const all = {
    account: task.account,
    "your row": refText(task.ref),
    file: record.result?.url ?? record.result?.id,
    "HubSpot's words": record.message,
    "HubSpot's last status": record.status ?? task.status,
    fed: when(task.fed_at),
    "started at HubSpot": when(task.requested_at),
    "completed at HubSpot": when(record.completed_at),
    "outcome seen": when(task.seen_at),
    [task.row ? "next start" : "next poll"]: task.due_at ? nextText(task, latest?.now ?? Date.now() / 1000) : "",
    "starts sent": task.row?.starts ? count(task.row.starts) : "",
    "answers lost": task.row?.lost ? count(task.row.lost) : "",
    "first sent": when(task.row?.first_sent_at),
    "tasks of earlier attempts": task.row?.earlier.join(", "),
    "failed polls in a row": task.errors ? count(task.errors) : "",
    "correlation id, for HubSpot's support": record.correlation_id,
  };
  const list = element("dl", { class: "facts" });
  for (const [name, value] of Object.entries(all).filter(([, each]) => each)) {
    list.append(element("dt", {}, name), element("dd", {}, String(value)));
  }
  return list;
}

const section = (title, ...children) => element("section", {}, element("h3", {}, title), ...children);

function polls(task) {
  if (!task.poll_log.length) return element("p", { class: "empty" }, task.polls ? `${count(task.polls)}, no longer in the log` : "none yet");
  const list = element("ol", { class: "polls" });
  const dropped = task.polls - task.poll_log.length;
  if (dropped > 0) list.append(element("li", { class: "empty" }, `the first ${count(dropped)} are no longer in the log`));
  for (const poll of task.poll_log) {
    const detail = poll.detail === null ? "" : ` ${poll.detail}`;
    const next = poll.next_in_s === null ? "the last one" : `next ${duration(poll.next_in_s)} later`;
    list.append(element("li", {}, element("strong", {}, `${poll.outcome}${detail}`),
      element("span", { class: "note" }, `${when(poll.at)} · waited ${duration(poll.gate_s)} at the gate, took ${duration(poll.took_s)} · ${next}`)));
  }
  return list;
}

function deliveries(task) {
  const all = Object.entries(task.deliveries);
  if (!all.length) return [];
  const list = element("dl", { class: "facts" });
  for (const [sink, state] of all) {
    list.append(element("dt", {}, sink), element("dd", { "data-tone": state.startsWith("dead") ? "bad" : "" }, state));
  }
  return [section("Deliveries", list)];
}

function raw(title, value) {
  if (value === null || value === undefined) return [];
  return [section(title, element("pre", { tabindex: "0", role: "region", "aria-label": title }, JSON.stringify(value, null, 2)))];
}

function close() {
  go(withTask(null));
}

$("task-close").addEventListener("click", close);
drawer.addEventListener("cancel", (event) => { event.preventDefault(); close(); });
drawer.addEventListener("click", (event) => { if (event.target === drawer) close(); }); // beside it

export function showTask({ task }) {
  if (!task) {
    asked = "";
    if (drawer.open) drawer.close();
    return;
  }
  if (!drawer.open) drawer.showModal();
  if (asked === nameOf(task)) return;
  asked = nameOf(task);
  setText($("task-title"), task.task_id);
  $("task-body").replaceChildren(element("p", { class: "empty" }, "reading …"));
  load(task);
}

export function refreshTask(overview) {
  latest = overview;
  const { task } = current();
  const now = `${overview.polls} ${overview.ledger.sinks.map((sink) => [sink.delivered, sink.dead])}`;
  if (!task || now === changes) return;
  changes = now;
  if (!$("task-body").contains(document.activeElement) && !String(getSelection())) load(task); // not under somebody's hands
}
