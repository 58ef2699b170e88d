// What needs attention, each with its remedy.

import { $, element, setData, setText, update } from "./dom.js";
import { hashOf, withTask } from "./route.js";
import { at, BY_PERSON, count, duration, plural, share } from "./text.js";

const SHORT_WAIT_S = 600; // and three times what 95 % of the imports take: less is no trouble

function notices(overview) {
  const { now, lanes, ledger, refusals, sinks, store, warning, state, rejected } = overview;
  const all = [];
  if (store && !store.ready) {
    all.push({ key: "store", tone: "bad", title: "The state cannot be written", text: "It does not answer, or its disk is full; nothing is acknowledged until it can. The log names the reason." });
  }
  if (warning) {
    all.push({ key: "warning", tone: "bad", title: "One reason dominates", text: warningText(warning) });
  }
  const isOver = (lane) => state === "stopped" && !lane.needs_person && lane.pause !== BY_PERSON; // nothing waits for its end
  for (const lane of lanes.filter((each) => each.pause && !isOver(each))) {
    const { pause, pause_detail: detail, resume_at: resumeAt } = lane;
    const until = resumeAt ? ` Until about ${at(resumeAt, now, { seconds: resumeAt - now < 120 })}.` : "";
    const which = lanes.length > 1 ? `Account ${lane.account} is paused` : "Paused";
    all.push({
      key: `lane ${lane.account}`, tone: lane.needs_person ? "bad" : "warn", title: which + (pause === BY_PERSON ? " by a person" : `: ${pause.replaceAll("_", " ")}`),
      text: `${sentence(lane.meaning)}${until}${detail ? ` ${sentence(withTimes(detail, now))}` : ""}`,
    });
  }
  for (const lane of lanes.filter((each) => each.imports?.trial && !each.pause)) {
    const { rows, landed, needed } = lane.imports.trial;
    all.push({
      key: `trial ${lane.account}`, tone: "quiet", title: `A trial runs${lanes.length > 1 ? ` for account ${lane.account}` : ""}: ${count(landed)} of ${count(needed)} landed`,
      text: `${plural(rows, "row")} ${rows === 1 ? "is" : "are"} started first; ${count(lane.imports.unstarted)} are not started yet. All the others follow once ${count(needed)} have landed; if all of the trial fail for one reason, they are not started.`,
    });
  }
  for (const account of overview.fleet?.unserved ?? []) {
    all.push({ key: `unserved ${account}`, tone: "bad", title: `No replica serves account ${account}`, text: "Its tasks wait: no replica's settings name it. Add it to the settings of a replica and reload them." });
  }
  for (const [sink, home] of Object.entries(overview.fleet?.sinks_away ?? {})) {
    all.push({ key: `away ${sink}`, tone: "warn", title: `${sink} waits for replica ${home}`, text: `Only ${home} delivers it, for it is on that machine. Its outbox grows; nothing is lost.` });
  }
  if (overview.fleet?.settings_differ.length) {
    all.push({ key: "differ", tone: "warn", title: "The replicas' settings differ", text: `The owner's apply: ${overview.fleet.settings_differ.slice(0, 10).join(", ")}.` });
  }
  const oldest = overview.oldest_waiting;
  const usual = Math.max(SHORT_WAIT_S, 3 * (overview.took.p95_s ?? 0));
  if (oldest && now - oldest.fed_at > usual && !lanes.some((lane) => lane.account === oldest.account && lane.pause)) {
    const last = oldest.status ? ` HubSpot's last answer: ${oldest.status}.` : "";
    all.push({
      key: "oldest", tone: "warn", title: `One task waits for ${duration(now - oldest.fed_at)}`,
      text: `${oldest.task_id} is the oldest of ${plural(ledger.waiting, "waiting task")}.${last}`,
      link: ["See its polls", withTask(oldest)],
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
      text: `${latest}Remove the cause, then retry them.`, link: ["See each one and its reason", hashOf("dead-letters")],
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

// Instants of the program's texts as this page shows others.
const withTimes = (text, now) => text.replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/g, (instant) => at(Date.parse(instant) / 1000, now, { seconds: true }));

function sentence(text) {
  if (!text) return "";
  const words = text.replace(/\bhttp_(\d{3})\b/g, "HTTP $1"); // a reason as the log has it
  const begun = /^[a-z]+[ ,]/.test(words) ? words[0].toUpperCase() + words.slice(1) : words; // a name stays as it is
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}

function warningText({ reason, count: number, outcomes, share: part, samples }) {
  return `${sentence(reason)} ${count(number)} of the latest ${plural(outcomes, "outcome")}, ${share(part, 1)}; for example ${samples.join(", ")}.`;
}

export function showNotices(overview) {
  update($("notices"), notices(overview), {
    key: (each) => each.key,
    make: () => element("div", { class: "notice" }, element("strong"), element("span"), " ", element("a")),
    fill: (node, each) => {
      setData(node, "tone", each.tone);
      setText(node.children[0], each.title);
      setText(node.children[1], each.text);
      const [text, href] = each.link ?? ["", ""];
      setText(node.children[2], text);
      if (href) node.children[2].setAttribute("href", href);
    },
  });
}
