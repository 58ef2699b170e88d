// The live page: shows each overview that the server sends, and the state of the connection.

import { cards } from "./cards.js";
import { connect } from "./connection.js";
import { $, setData, setText } from "./dom.js";
import { at, share, STATES } from "./text.js";

let latest = null;
let isEnded = false;

function show(overview) {
  const [state, tone] = isEnded && overview.state !== "finished" ? ["stopped", "warn"] : STATES[overview.state] ?? [overview.state, "quiet"];
  setText($("state"), state);
  setData($("state"), "tone", tone);
  const { finished, tasks } = overview.ledger;
  setText(document.querySelector("title"), tasks ? `${share(finished, tasks)} ${state} – poller` : `${state} – poller`);
  for (const card of cards) card(overview);
}

function showConnection(tone, text) {
  setData($("line"), "tone", tone);
  setText($("line-text"), text);
}

const timeOf = (overview, now) => at(overview.now, now, { seconds: true });

new ResizeObserver(() => latest && show(latest)).observe($("main"));
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
