// The card of hosts: how many files of each landed, with links to the tasks.

import { $, element, setText, update } from "./dom.js";
import { tasksWhere } from "./route.js";
import { count, plural, share } from "./text.js";

export function showHosts({ hosts: { seen, counted, total, hosts }, ledger }) {
  $("hosts").hidden = !hosts.length;
  setText($("hosts-now"), plural(total, "host"));
  const more = total - hosts.length;
  const rest = more > 0 ? [`Those of which most files did not land, and ${count(more)} more.`] : [];
  if (seen < ledger.finished) rest.push(`${count(seen)} of ${count(ledger.finished)} outcomes are counted here.`); // the run began with older ones
  if (counted < seen) rest.push(`${plural(seen - counted, "task")} without a URL.`);
  $("hosts-note").hidden = !rest.length;
  setText($("hosts-note"), rest.join(" "));
  update($("hosts-list"), hosts, { key: (each) => each.host, make: makeHost, fill: fillHost });
}

function makeHost({ host }) {
  return element("li", {},
    element("p", { class: "host-text" }, element("a", { class: "host", href: tasksWhere({ host }) }, host), element("a", { class: "n", href: tasksWhere({ host, landed: false }) })),
    element("div", { class: "weight", "aria-hidden": "true" }, element("span", { class: "fill there" }), element("span", { class: "fill missing" })));
}

function fillHost(node, { host, landed, not_landed: missing }) {
  const [text, weight] = node.children;
  const link = text.children[1];
  setText(link, missing ? `${count(missing)} of ${count(landed + missing)} did not land` : `all ${count(landed)} landed`);
  const href = tasksWhere({ host, landed: !missing });
  if (link.getAttribute("href") !== href) link.setAttribute("href", href);
  weight.title = `${share(landed, landed + missing)} landed`;
  [landed, missing].forEach((n, index) => {
    const part = weight.children[index];
    part.hidden = !n;
    const width = `${(100 * n) / (landed + missing)}%`;
    if (part.style.width !== width) part.style.width = width;
  });
}
