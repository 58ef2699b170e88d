// What both charts share: SVG elements, round numbers for an axis, and the values under the pointer.

const NS = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export const label = (x, y, text, attributes = {}) => svg("text", { x, y, ...attributes }, text);

// Round numbers, from 0 to the first above `top`.
export function ticks(top, most) {
  const rough = top / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const all = [];
  for (let tick = 0; tick < top + step; tick += step) all.push(Number(tick.toPrecision(6)));
  return all;
}

// Show what is under the pointer: `near(x)` returns its `x` and its `lines`, or null. The table below has the same numbers.
export function showUnderPointer(host, drawing, { top, bottom }, near) {
  const hair = svg("line", { class: "hair", y1: top, y2: bottom, visibility: "hidden" });
  const tip = document.createElement("p");
  tip.className = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  drawing.append(hair);
  host.append(tip);
  const hide = () => {
    hair.setAttribute("visibility", "hidden");
    tip.hidden = true;
  };
  drawing.addEventListener("pointermove", (event) => {
    const found = near(event.clientX - drawing.getBoundingClientRect().left);
    if (!found) return hide();
    hair.setAttribute("x1", found.x);
    hair.setAttribute("x2", found.x);
    hair.setAttribute("visibility", "visible");
    tip.hidden = false;
    tip.replaceChildren(...found.lines.map((line, index) => {
      const node = document.createElement(index ? "span" : "strong");
      node.textContent = line;
      return node;
    }));
    const isRight = found.x > host.clientWidth / 2;
    tip.style.left = isRight ? "auto" : `${found.x + 10}px`;
    tip.style.right = isRight ? `${host.clientWidth - found.x + 10}px` : "auto";
  });
  drawing.addEventListener("pointerleave", hide);
}
