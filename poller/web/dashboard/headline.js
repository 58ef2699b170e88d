// The head of the overview: how much is done, and when the rest will be.

import { $, element, setText, update } from "./dom.js";
import { tasksWhere } from "./route.js";
import { at, count, duration, KINDS, plural, share, span } from "./text.js";

const TAIL_RATIO = 1.5; // of the slowest task's time to the pace's, from which it is shown; as in schedule/forecast.py

export function showDone({ ledger, is_fed: isFed, starts, lanes }) {
  const { finished, tasks } = ledger;
  setText($("done-share"), tasks ? share(finished, tasks) : "ready");
  setText($("done-text"), tasks
    ? `${count(finished)} of ${plural(tasks, "task")}${isFed ? "" : " so far"} ${tasks === 1 ? "has its" : "have their"} outcome${waitingText({ starts, lanes })}`
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
  showLanded(ledger);
  const parts = [...seen, ...(ledger.waiting ? [{ kind: "waiting", count: ledger.waiting }] : [])];
  update($("kinds"), parts, {
    key: (each) => each.kind,
    make: (each) => element("li", {},
      element("span", { class: `swatch kind-${each.kind}`, "aria-hidden": "true" }),
      element("a", { class: "name", href: tasksWhere(each.kind === "waiting" ? { state: "waiting" } : { kind: each.kind }) }, KINDS[each.kind] ?? each.kind),
      element("span", { class: "n" })),
    fill: (node, each) => {
      setText(node.children[2], count(each.count));
      node.title = share(each.count, tasks);
    },
  });
}

// The one figure that a migration is about: is the file there?
function showLanded({ landed, finished, waiting, tried_again: triedAgain }) {
  const there = Object.values(landed).reduce((sum, n) => sum + n, 0);
  const withErrors = there - (landed.complete ?? 0);
  const parts = [
    { key: "landed", count: there, text: `landed${withErrors ? ` (${count(withErrors)} with errors)` : ""}`, where: { landed: true } },
    { key: "not", count: finished - there - triedAgain, text: "did not", where: { landed: false } },
    { key: "waiting", count: waiting, text: "waiting", where: { state: "waiting" } },
    { key: "again", count: triedAgain, text: `earlier attempt${triedAgain === 1 ? "" : "s"}, tried again` },
  ];
  update($("landed"), finished ? parts.filter((part) => part.count || ["landed", "not"].includes(part.key)) : [], {
    key: (part) => part.key,
    make: (part) => element("li", {}, element(part.where ? "a" : "span", part.where ? { href: tasksWhere(part.where) } : {}, element("strong"), " ", element("span"))),
    fill: (node, part) => {
      setText(node.firstChild.children[0], count(part.count));
      setText(node.firstChild.children[1], part.text);
    },
  });
}

// Where the rows that wait are: of a state all of them, of a run those of its accounts.
function waitingText({ starts, lanes }) {
  const imports = lanes.map((lane) => lane.imports).filter(Boolean);
  const sum = (key) => imports.reduce((all, each) => all + each[key], 0);
  const seen = starts ?? { unstarted: sum("unstarted"), unsure: 0, underway: sum("underway") };
  const parts = [[seen.unstarted, "not started yet"], [seen.unsure, "started, not answered yet"], [seen.underway, "under way"]];
  const shown = parts.filter(([n]) => n).map(([n, name]) => `${count(n)} ${name}`);
  return shown.length ? ` · ${shown.join(" · ")}` : "";
}

function whenItEnds({ forecast, now, ledger, is_fed: isFed, lanes, started_at: startedAt, state: runState, store }) {
  const { state } = forecast;
  const midnights = forecast.quota_days > 1 ? `${count(forecast.quota_days)} of the account's midnights` : "the account's midnight";
  const quota = forecast.quota_days ? ` Today's quota is not enough: the run waits for ${midnights}.` : "";
  if (!ledger.tasks) return ["–", "a forecast comes with the first tasks"];
  if (runState === "stopped") return ["stopped", `no process works on this state, and ${plural(ledger.waiting, "task")} ${ledger.waiting === 1 ? "waits" : "wait"}: run poller again to continue`];
  if (store && !store.ready && state !== "done") return ["no forecast", "the state cannot be written: all waits until it can"];
  if (state === "done") return ["done", startedAt ? `every task has its outcome, ${duration(now - startedAt)} after the start` : "every task has its outcome"];
  if (state === "open") return ["nothing to do", "every task so far has its outcome; more may be fed"];
  if (state === "blocked") return ["no forecast", "an account is paused or has no requests left, and the end of that is not known"];
  if (state === "too_early") {
    const latest = forecast.latest_at ? `; at the latest ${at(forecast.latest_at, now)}, when the remaining tasks time out` : "";
    const reason = lanes.some((lane) => lane.imports?.trial) ? "no forecast before the trial is over" : "too few recent outcomes for a forecast";
    return [`after ${at(forecast.earliest_at, now)}`, `${reason}; the rate limit allows no earlier end${latest}.${quota}`];
  }
  const left = forecast.at - now;
  const isWide = forecast.latest_at - forecast.earliest_at > Math.max(120, 0.15 * left);
  const range = isWide ? ` (${span(forecast.earliest_at, forecast.latest_at, now)})` : "";
  const paused = lanes.some((lane) => lane.pause && !forecast.is_partial) ? ", once the pause is over" : "";
  const onTrial = lanes.some((lane) => lane.imports?.trial);
  const leftOut = onTrial ? "accounts that are paused or on trial" : "paused accounts";
  const partial = forecast.is_partial ? `, without the tasks of ${leftOut}` : "";
  const limits = `${range}, at the recent pace${paused}${partial}${isFed ? "" : ", if nothing more is fed"}`;
  const slowest = forecast.slowest_at;
  if (forecast.is_tail_open) {
    const nearly = forecast.nearly_at ?? forecast.at;
    const when = forecast.nearly_at === null ? `about ${at(nearly, now)}` : `99 % by ${at(nearly, now)}`;
    return [when, `in ${duration(nearly - now)}${limits}; a few may take longer.${quota}`];
  }
  if (slowest === null || slowest - now < TAIL_RATIO * Math.max(1, left)) return [`about ${at(forecast.at, now)}`, `in ${duration(left)}${limits}.${quota}`];
  const until = `${forecast.nearly_at === null ? "the last ones" : "the slowest"} may take until ${at(slowest, now)}`;
  if (forecast.nearly_at === null) return [`by ${at(slowest, now)}`, `${until}, in ${duration(slowest - now)}${partial}.${quota}`];
  return [`99 % by ${at(forecast.nearly_at, now)}`, `in ${duration(forecast.nearly_at - now)}${limits}; ${until}.${quota}`];
}

export function showWhen(overview) {
  const [when, why] = whenItEnds(overview);
  setText($("when"), when);
  setText($("when-why"), why);
}
