// The table of tasks: its filters are in the address, its rows come page by page, and what matches can be downloaded.

import { download, getJson } from "./api.js";
import { $, element, setText, table, update } from "./dom.js";
import { current, go, hashOf, tasksWhere } from "./route.js";
import { fillFile, fillHost, fillOutcome, fillTaskLink, landedText, makeFile, makeOutcome, nextText, taskLink } from "./task-cells.js";
import { at, count, KINDS, KINDS_OF_IMPORTS, plural } from "./text.js";

const PAGE = 100;
const MOST_A_PAGE = 1000; // that the server sends
const REFRESH_S = 5; // while the run changes
const TYPED_MS = 300; // after the last key

let shown = []; // the rows
let cursor = null; // of the next page
let asked = null; // the filters that the rows match
let asking = null; // the request under way
let askedAt = 0;
let isLoading = false;
let changes = ""; // the sums when the rows came
let latest = null; // overview

const form = $("filters");

const nowS = () => latest?.now ?? Date.now() / 1000;

async function load({ more = false } = {}) {
  const { filters } = current();
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  [askedAt, isLoading] = [Date.now(), true];
  $("tasks-scroll").setAttribute("aria-busy", "true");
  const kept = more ? shown : [];
  const wanted = kept.length + (more || asked !== filters.toString() ? PAGE : Math.max(PAGE, shown.length));
  try {
    const page = await find(filters, { kept, wanted, from: more ? cursor : null, signal });
    if (signal.aborted) return;
    [shown, cursor, asked, changes] = [page.tasks, page.cursor, filters.toString(), sums()];
    show();
  } catch (error) {
    if (error.name === "AbortError") return;
    [shown, cursor, asked] = [[], null, filters.toString()];
    show();
    setText($("tasks-empty"), error.message);
  } finally {
    if (asking.signal === signal) { // no other request has begun; it may have been aborted when another view was shown
      isLoading = false;
      $("tasks-scroll").removeAttribute("aria-busy");
    }
  }
}

// Read pages until there are as many tasks as wanted. A search that takes long comes in short pages, empty ones too.
async function find(filters, { kept, wanted, from, signal }) {
  const tasks = [...kept];
  let next = from;
  do {
    const query = new URLSearchParams(filters);
    query.set("limit", Math.min(MOST_A_PAGE, wanted - tasks.length));
    if (next !== null) query.set("cursor", next);
    const page = await getJson(`/v1/tasks?${query}`, signal);
    tasks.push(...page.tasks);
    next = page.next_cursor;
    if (next !== null && !page.tasks.length) setText($("tasks-now"), "searching …");
  } while (next !== null && tasks.length < wanted);
  return { tasks, cursor: next };
}

const sums = () => (latest ? `${latest.ledger.finished} ${latest.ledger.tasks}` : "");

function show() {
  const now = nowS();
  setText($("tasks-now"), shown.length ? `${cursor ? "the first " : ""}${plural(shown.length, "task")}` : "");
  $("tasks-empty").hidden = shown.length > 0;
  setText($("tasks-empty"), current().filters.size ? "No task matches these filters." : "No task has been fed yet.");
  $("tasks-more").hidden = !cursor;
  $("tasks-table").hidden = !shown.length;
  table($("tasks-table"), "Tasks", [
    { name: "task", text: true, make: taskLink, fill: fillTaskLink },
    { name: "file", text: true, make: makeFile, fill: fillFile },
    { name: "outcome", text: true, make: makeOutcome, fill: fillOutcome },
    { name: "landed", text: true, cell: (task) => landedText(task), tone: (task) => (task.landed === false ? "bad" : "") },
    { name: "why", text: true, cell: (task) => task.reason ?? (task.state === "waiting" ? task.status ?? "not polled yet" : "") },
    { name: "host", text: true, make: () => element("a"), fill: (node, task) => fillLink(node, task.host, { host: task.host }, fillHost) },
    { name: "account", text: true, make: () => element("a"), fill: (node, task) => fillLink(node, task.account, { account: task.account }) },
    { name: "seen", text: true, cell: (task) => whenText(task, now) },
    { name: "polls", cell: (task) => count(task.polls) },
  ], shown.map((task) => ({ ...task, key: `${task.account} ${task.task_id}` })));
  $("tasks-table").classList.toggle("one-account", accounts().length < 2);
}

function fillLink(node, text, filters, fill = setText) {
  fill(node, text ?? "");
  if (text) node.setAttribute("href", tasksWhere({ ...Object.fromEntries(current().filters), ...filters }));
}

function whenText(task, now) {
  if (task.seen_at) return at(Date.parse(task.seen_at) / 1000, now, { seconds: true });
  if (!task.due_at) return "";
  return `${task.state === "waiting" ? "next poll" : "next start"} ${nextText(task, now)}`;
}

// --- filters

const hasImports = () => Boolean(latest?.starts) || Boolean(latest?.lanes.some((lane) => lane.imports));
const accounts = () => latest?.lanes.map((lane) => lane.account) ?? [];

// Show the filters of the address in the form.
function fillForm(filters) {
  const set = (name, value) => { if (form.elements[name] !== document.activeElement) form.elements[name].value = value; };
  for (const name of ["q", "host", "reason"]) set(name, filters.get(name) ?? "");
  set("show", filters.has("landed") ? `landed=${filters.get("landed")}` : filters.has("state") ? `state=${filters.get("state")}` : "");
  for (const name of ["since", "account"]) {
    const value = filters.get(name) ?? "";
    offer(form.elements[name], value);
    set(name, value);
  }
  const kinds = filters.getAll("kind");
  const ofIds = Object.keys(KINDS).filter((kind) => hasImports() || kinds.includes(kind) || !KINDS_OF_IMPORTS.includes(kind));
  update($("kind-choices"), ofIds, {
    key: (kind) => kind,
    make: (kind) => element("label", { class: "choice" },
      element("input", { type: "checkbox", name: "kind", value: kind }),
      element("span", { class: `swatch kind-${kind}`, "aria-hidden": "true" }), KINDS[kind]),
    fill: (node, kind) => { node.firstChild.checked = kinds.includes(kind); },
  });
}

function offer(select, value) {
  if (![...select.options].some((option) => option.value === value)) select.append(element("option", { value }, value));
}

// Return the filters that the form shows.
function formFilters() {
  const filters = new URLSearchParams();
  for (const name of ["q", "host", "reason", "account", "since"]) {
    const value = form.elements[name].value.trim();
    if (value) filters.set(name, value);
  }
  const [name, value] = form.elements.show.value.split("=");
  if (name) filters.set(name, value);
  for (const box of form.querySelectorAll("[name=kind]:checked")) filters.append("kind", box.value);
  return filters;
}

let typing = 0;
const apply = (options) => {
  clearTimeout(typing);
  go(hashOf("tasks", formFilters()), options);
};

form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
form.addEventListener("change", () => apply());
form.addEventListener("input", (event) => {
  if (event.target.type === "checkbox" || event.target.tagName === "SELECT") return; // `change` follows
  clearTimeout(typing);
  typing = setTimeout(() => apply({ replace: true }), TYPED_MS);
});
$("reset").addEventListener("click", () => go(hashOf("tasks")));
$("tasks-more").addEventListener("click", () => load({ more: true }));

for (const button of document.querySelectorAll("[data-download]")) {
  button.addEventListener("click", async () => {
    const format = button.dataset.download;
    const query = new URLSearchParams(current().filters);
    const path = format === "resubmit" ? "/v1/resubmit" : "/v1/tasks";
    if (format !== "resubmit") query.set("format", format);
    const names = { csv: "tasks.csv", ids: "tasks.txt", resubmit: "resubmit.jsonl" };
    button.disabled = true;
    try {
      await download(`${path}?${query}`, names[format]);
    } catch (error) {
      setText($("tasks-now"), error.message);
    } finally {
      button.disabled = false;
    }
  });
}

// --- for the page

// The address has changed, or the page has begun.
export function showTasks({ view, filters }) {
  if (view !== "tasks") return asking?.abort();
  fillForm(filters);
  if (asked !== filters.toString()) load();
  else show();
}

// An overview has arrived: show its accounts, and the rows again where they may have changed.
export function refreshTasks(overview) {
  latest = overview;
  for (const name of accounts()) offer(form.elements.account, name);
  $("account-field").hidden = accounts().length < 2;
  const { view, filters } = current();
  const isNew = $("import-states").hidden && hasImports();
  $("import-states").hidden = !hasImports();
  if (isNew) fillForm(filters);
  if (view !== "tasks") return;
  const isOld = asked !== filters.toString() || sums() !== changes;
  if (isOld && !isLoading && Date.now() - askedAt > REFRESH_S * 1000) load();
}
