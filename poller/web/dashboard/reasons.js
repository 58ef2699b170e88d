// The card of reasons: why tasks are not plainly complete, with the latest tasks of each.

import { $, element, setText, update } from "./dom.js";
import { tasksWhere } from "./route.js";
import { fillTaskLink, taskLink } from "./task-cells.js";
import { count, plural, ref, share } from "./text.js";

const SHOWN_REASONS = 8; // of the twelve that come

export function showReasons({ reasons, ledger }) {
  $("reasons-empty").hidden = reasons.length > 0;
  setText($("reasons-empty"), ledger.finished ? "Every outcome so far is plainly complete." : "The reasons of tasks that are not complete appear here.");
  const sum = reasons.reduce((total, each) => total + each.count, 0);
  setText($("reasons-now"), reasons.length ? `${plural(sum, "outcome")}, ${share(sum, ledger.finished)}` : "");
  const most = Math.max(1, ...reasons.map((each) => each.count));
  const more = reasons.length - SHOWN_REASONS;
  $("reasons-more").hidden = more <= 0;
  setText($("reasons-more"), more > 0 ? `${more >= 4 ? "Rarer ones" : plural(more, "rarer one")}: poller report` : "");
  update($("reasons"), reasons.slice(0, SHOWN_REASONS), {
    key: (each) => each.reason,
    make: (each) => element("li", {}, element("details", {},
      element("summary", {}, element("span", { class: "reason" }), element("span", { class: "n" })),
      element("p", { class: "note" }, element("a", { href: tasksWhere({ reason: each.reason }) }, "All of them"), " ", element("span")),
      element("ul", { class: "samples" })), element("div", { class: "weight", "aria-hidden": "true" }, element("span", { class: "fill" }))),
    fill: (node, each) => {
      const [details, weight] = node.children;
      const [name, n] = details.firstChild.children;
      setText(name, each.reason);
      setText(n, `${count(each.count)} · ${share(each.count, ledger.finished)}`);
      setText(details.children[1].lastChild, `${count(each.landed)} landed, ${count(each.count - each.landed)} did not`);
      const width = `${(100 * each.count) / most}%`;
      if (weight.firstChild.style.width !== width) weight.firstChild.style.width = width;
      weight.firstChild.className = `fill kind-${each.kind ?? "unknown"}`;
      update(details.lastChild, each.samples.length ? each.samples : [{ account: "", task_id: "", none: true }], {
        key: (sample) => `${sample.account} ${sample.task_id}`,
        make: () => element("li", {}, taskLink(), " ", element("span", { class: "ref" })),
        fill: (line, sample) => {
          fillTaskLink(line.children[0], sample);
          setText(line.children[1], sample.none ? "no samples in this run" : sampleText(sample));
        },
      });
    },
  });
}

function sampleText(sample) {
  return [ref(sample.ref), sample.correlation_id && `correlation id ${sample.correlation_id}`].filter(Boolean).join("   ");
}
