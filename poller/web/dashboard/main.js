// The live page: shows each overview that the server sends, the view that the address names, and the state of the connection.

import { cards } from "./cards.js";
import { connect } from "./connection.js";
import { refreshDeadLetters, showDeadLetters } from "./dead-letters.js";
import { $, setData, setText } from "./dom.js";
import { refreshTask, showTask } from "./drawer.js";
import { current, onChange } from "./route.js";
import { refreshTasks, showTasks } from "./tasks.js";
import { at, share, STATES } from "./text.js";

let latest = null;
let isEnded = false;

function show(overview) {
  const [state, tone] = isEnded && overview.state !== "finished" ? ["stopped", "warn"] : STATES[overview.state] ?? [overview.state, "quiet"];
  setText($("state"), state);
  setData($("state"), "tone", tone);
  const { finished, tasks } = overview.ledger;
  setText(document.querySelector("title"), tasks ? `${share(finished, tasks)} ${state} – poller` : `${state} – poller`);
  $("read-only").hidden = !overview.is_read_only;
  for (const card of cards) card(overview);
  for (const refresh of [refreshTasks, refreshDeadLetters, refreshTask]) refresh(overview);
}

function showView() {
  const route = current();
  for (const view of ["overview", "tasks", "dead-letters"]) $(view).hidden = view !== route.view;
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.dataset.view === route.view) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  for (const each of [showTasks, showDeadLetters, showTask]) each(route);
}

function showConnection(tone, text) {
  setData($("line"), "tone", tone);
  setText($("line-text"), text);
}

const timeOf = (overview, now) => at(overview.now, now, { seconds: true });

new ResizeObserver(() => latest && show(latest)).observe($("main"));
onChange(showView);
showView();
connect({
  received(overview, isLast) {
    [latest, isEnded] = [overview, isLast];
    show(overview);
    if (isLast) showConnection("quiet", `the run has ended, ${timeOf(overview, overview.now)}`);
    else showConnection("good", `live, as of ${timeOf(overview, overview.now)}`);
  },
  hidden: () => showConnection("quiet", "paused while this tab is hidden"),
  refused: () => showConnection("warn", "a token is needed"),
  lost(why) {
    const since = latest ? `; the figures are from ${timeOf(latest, Date.now() / 1000)}` : "";
    showConnection("bad", `no connection: ${why}${since}. Retrying …`);
    setText($("state"), latest ? "connection lost" : "not reachable");
    setData($("state"), "tone", "bad");
  },
});
